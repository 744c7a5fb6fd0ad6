"""Ctrl-C and the SIGTERM of a cluster: the step is finished and a checkpoint written before the run ends."""

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While it is entered, the first signal is only noted; a second one interrupts at once.

    A step that is cut anywhere would leave weights, random state and position that do not belong together.

    Args:
        enabled: False leaves signals alone, as several processes would note theirs at different steps.
    """

    def __init__(self, enabled: bool):
        # Python takes signals in the main thread alone.
        self.enabled = enabled and threading.current_thread() is threading.main_thread()
        self.requested = False

    def __enter__(self) -> "Interruption":
        if self.enabled:
            self.previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        if self.enabled:
            for number, handler in self.previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt("Interrupted a second time, before the step was finished.")
        self.requested = True
