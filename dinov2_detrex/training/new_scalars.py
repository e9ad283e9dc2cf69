"""Which numbers have come into the event storage since a writer last looked?"""

from detectron2.utils.events import get_event_storage

WINDOW = 20  # iterations over which noisy values are smoothed


class NewScalars:
    """What has come into the event storage since the last call, smoothed, by iteration in ascending order."""

    def __init__(self):
        self._last = -1

    def take(self) -> list[tuple[int, dict[str, float]]]:
        by_iteration: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if iteration > self._last:
                by_iteration.setdefault(iteration, {})[name] = value
        self._last = max(by_iteration, default=self._last)
        return sorted(by_iteration.items())
