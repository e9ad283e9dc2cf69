"""How does Ctrl-C end a loop between two of its rounds, so that what is being written is written to its end?"""

import signal
import threading
from types import FrameType


class Interruptible:
    """While entered, the first SIGINT only sets `asked`; the second interrupts at once, as usual.

    Elsewhere than in the main thread it changes nothing.
    """

    def __init__(self):
        self.asked = False
        self._before = None

    def __enter__(self) -> "Interruptible":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
