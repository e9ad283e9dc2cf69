"""How do torch's threads wait for each other on a CPU that other programs use too?

torch's operators split their work over the threads of an OpenMP team, thousands of times in a training step, and at the
end of each split the threads that are done wait for the last. GNU's libgomp, which torch brings on Linux, waits by
spinning, 300,000 rounds (milliseconds) before it sleeps. That is right on an idle machine, where the last thread is
microseconds away. Where another program holds one of the cores, the last thread is not running at all, and the one that
waits spins on the very core that it needs: a step takes many times as long, and most of it is spinning.

libgomp knows the situation in one form: as soon as it manages more threads than there are cores, it spins for 100
rounds only. `yield_when_busy` brings that about while other work competes for the cores, by keeping a second team that
sleeps, and undoes it when they are free again. How work is split does not change, so results stay equal to the bit,
which another number of threads would not give.
"""

import ctypes
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5
BUSY_SHARE = 0.25  # of a core's time that this process's threads, ready to run, waited for a core
CALM_SHARE = 0.15
CALM_S = 2.0  # of calm before threads spin again; doubled, up to the limit, when the calm turns out short
MAX_CALM_S = 60.0
TASKS = Path("/proc/self/task")
MAPS = Path("/proc/self/maps")


@contextmanager
def yield_when_busy() -> Iterator[None]:
    """While entered, threads that wait for each other yield their cores as long as other work competes for them.

    Does nothing where the system does not tell how long threads wait for a core (all but Linux), and where torch uses
    another OpenMP than GNU's. One daemon thread looks twice a second.
    """
    if waited_for_cores_s() is None:
        yield
        return
    watch = _Watch()
    watch.start()
    try:
        yield
    finally:
        watch.end()


def waited_for_cores_s() -> float | None:
    """Seconds that the threads of this process, ready to run, have waited for a core so far; None if not known.

    Threads that have ended are not in the sum, so it can fall.
    """
    try:
        return sum(_waited_ns(task) for task in TASKS.iterdir()) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def _waited_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text().split()[1])  # "time on a core, time ready to run, slices"
    except FileNotFoundError:
        if task.exists():  # a kernel without these numbers; else the thread has just ended
            raise
        return 0
    except ProcessLookupError:
        return 0


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class SleepingTeam:
    """A second OpenMP team, asleep, so large that libgomp counts more threads than cores while it exists.

    A team belongs to the thread that made it and ends with it.
    """

    def __init__(self):
        self._done = threading.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(ready,), name="openmp-sleeping-team", daemon=True)
        self._thread.start()
        ready.wait()

    def _hold(self, ready: threading.Event) -> None:
        free = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # of no pointer: the team's work, which is none
        for library in loaded_gnu_openmp():
            library.GOMP_parallel(free, None, usable_cores() + 1, 0)
        ready.set()
        self._done.wait()

    def dissolve(self) -> None:
        """End the team; threads spin again."""
        self._done.set()
        self._thread.join()


def loaded_gnu_openmp() -> list[ctypes.CDLL]:
    """The copies of libgomp that this process has loaded (torch brings its own under a name of its own)."""
    paths = {line.split(maxsplit=5)[5].strip() for line in MAPS.read_text().splitlines() if "libgomp" in line}
    return [ctypes.CDLL(path) for path in sorted(paths)]


class _Watch(threading.Thread):
    """Looks at the competition for cores, and keeps a `SleepingTeam` while there is any."""

    def __init__(self):
        super().__init__(name="openmp-watch", daemon=True)
        self._ended = threading.Event()
        self._team: SleepingTeam | None = None
        self._told = False
        self._calm_since = self._released_at = float("-inf")
        self._needed_calm_s = CALM_S

    def end(self) -> None:
        """Stop looking, and let threads spin again."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        before, since = waited_for_cores_s(), time.monotonic()
        while not self._ended.wait(INTERVAL_S):
            waited, moment = waited_for_cores_s(), time.monotonic()
            if waited is None or before is None:
                break
            self._judge((waited - before) / (moment - since), moment)
            before, since = waited, moment
        self._release()

    def _judge(self, share: float, moment: float) -> None:
        if share > CALM_SHARE:
            self._calm_since = moment
        if share > BUSY_SHARE and self._team is None and loaded_gnu_openmp():
            self._hold(share, moment)
        elif self._team is not None and moment - self._calm_since > self._needed_calm_s:
            self._released_at = moment
            self._release()

    def _hold(self, share: float, moment: float) -> None:
        short_calm = moment - self._released_at < 2 * self._needed_calm_s
        self._needed_calm_s = min(2 * self._needed_calm_s, MAX_CALM_S) if short_calm else CALM_S
        self._team = SleepingTeam()
        if not self._told:
            logger.info("other programs use the cores (threads wait for one %.0f %% of the time)", 100 * share)
        self._told = True

    def _release(self) -> None:
        if self._team is not None:
            self._team.dissolve()
            self._team = None
