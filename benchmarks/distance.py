"""How far apart the cores of two threads are: how long it takes them to meet.

Where the system has put the threads decides it, and may change from minute to minute: two hyperthreads of a
core, two cores that share a cache, or two that do not. Work in which threads read what others wrote is then
fast or slow, whoever does it.
"""

from numbarnn.engine.compile_cache import inlined, kernel
from numbarnn.engine.fork import fork
from numbarnn.engine.meeting import BETTER_ALONE, arrive, leave, make_meeting, take_round
from numbarnn.engine.threads import run

MEETINGS = 1000


@inlined
def _meet_part(part, arguments):
    (meeting,) = arguments
    done = arrive(meeting, part)
    while done < MEETINGS:
        take_round(meeting, part, done)
        done += 1
    leave(meeting, done)


@kernel
def meet(team, meeting):
    """Two threads meet round after round, and do nothing between."""
    fork(team, 2, _meet_part, (meeting,))


class Distance:
    """Two threads that meet `MEETINGS` times a call of `run`."""

    def __init__(self) -> None:
        self.meeting = make_meeting(2)

    def run(self) -> None:
        self.meeting[BETTER_ALONE] = 0  # with nothing to do between, it always is
        run(meet, 2, self.meeting)
