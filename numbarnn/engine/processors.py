"""How many processors this process may use."""

import math
import os
from pathlib import Path

# Where Linux says what share of the processors a group of processes has: by version 2 and 1 of its interface,
# each in the folder of the group and in those around it.
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def processor_count() -> int:
    """The processors that this process may run on, or fewer where its group has a quota of their time."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


def _quota() -> float:
    """The smallest quota of the groups that the process is in, in processors; infinity for none."""
    quotas = [math.inf]
    for line in _text(OWN_GROUPS).splitlines():
        _, controllers, name = line.split(":", 2)
        folder = CGROUPS if not controllers else CGROUPS / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the name may be one that only the host knows: the root is then the container's.
        own = Path(name.lstrip("/"))
        for group in {folder / own, *(folder / part for part in own.parents), folder}:
            quotas.append(_quota_of(group))
    return min(quotas)


def _quota_of(group: Path) -> float:
    words = _text(group / "cpu.max").split()  # version 2
    if not words:
        words = [_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]) > 0:
        return int(words[0]) / int(words[1])
    return math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
