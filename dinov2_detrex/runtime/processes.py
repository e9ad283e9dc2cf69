"""Was this process started by torchrun, and how does a process of a group end?"""

import atexit
import os
import sys
from typing import NoReturn

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """True if torchrun (or anything that sets its variables) started this process."""
    return all(name in os.environ for name in VARIABLES)


def end_process(status: int) -> NoReturn:
    """End this process with that status after its exit handlers, but without tearing the interpreter down.

    Threads of the process groups outlive these. The last reference to a tensor may be theirs, dropped after the
    collective was reported done; since torch 2.15 that takes Python's lock. A thread that waits for the lock while the
    interpreter ends is unwound by Python (before 3.14), which C++ answers with "terminate called without an active
    exception" and SIGABRT.
    """
    atexit._run_exitfuncs()  # as multiprocessing ends its forked children
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
