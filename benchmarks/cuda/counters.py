"""What threads of the scans wait for, by the hardware's counters: NVIDIA's ncu, where it is installed.

For every instruction that a warp issues, how many warps wait, by reason; and how busy the paths are.
"""

import csv
import shutil
import subprocess
import sys

REASONS = (
    "barrier", "long_scoreboard", "short_scoreboard", "wait", "math_pipe_throttle", "mio_throttle",
    "no_instruction", "not_selected", "branch_resolving", "dispatch_stall", "lg_throttle", "membar",
)  # fmt: skip
METRICS = [
    *[f"smsp__average_warps_issue_stalled_{reason}_per_issue_active.ratio" for reason in REASONS],
    "smsp__issue_active.avg.pct_of_peak_sustained_active", "sm__cycles_elapsed.max",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum", "smsp__inst_executed.sum",
]  # fmt: skip
ONE_LAYER = """
import numpy as np
import numbarnn
layer = numbarnn.{name}({hidden}, device="cuda")
x = np.ones((64, 200, 16), np.float32)
y, _ = layer.forward(x, training=True)
layer.backward(np.ones_like(y))
"""


def cases(part: str, quick: bool) -> list[str]:
    if quick or shutil.which("ncu") is None:
        return []
    return ["LSTM 64", "LSTM 128", "GRU 64", "RNN 64"]


def run(case: str) -> dict:
    name, hidden = case.split()
    command = [
        "ncu", "--clock-control", "none", "--csv", "--kernel-name", "regex:scan_", "--metrics",
        ",".join(METRICS), sys.executable, "-c", ONE_LAYER.format(name=name, hidden=hidden),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if done.returncode != 0 or len(lines) < 2:
        raise AssertionError((done.stdout + done.stderr)[-3000:])
    found: dict = {}
    for row in csv.DictReader(lines):
        which = "backward" if "backward" in row["Kernel Name"] else "forward"
        short = row["Metric Name"].removeprefix("smsp__average_warps_issue_stalled_")
        short = short.removesuffix("_per_issue_active.ratio")
        found[f"{which} {short}"] = float(row["Metric Value"].replace(",", ""))
    return found
