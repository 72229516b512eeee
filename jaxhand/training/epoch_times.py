"""How the time of an epoch is spent: waiting for data, testing, saving."""

import contextlib
import os
import time
from collections.abc import Iterator

from jaxhand.config import DataConfig

PARTS: tuple[str, ...] = ("data_wait", "test", "save")
WARN_SHARE, WARN_SECONDS = 0.2, 2.0  # a wait that is a smaller part of the epoch, or shorter, is worth no advice


class EpochTimes:
    """Measures the parts of an epoch. An epoch is the time from one call of `end_epoch` to the next."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Begin an epoch; what was measured since the last one is dropped."""
        self._begin, self._seconds = time.monotonic(), dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Context manager: the time inside it is added to the part `name`."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - begin

    def end_epoch(self) -> tuple[float, dict[str, float]]:
        """Begin the next epoch; returns the seconds of the last one, and the share of each part in it, 0 to 1."""
        seconds, parts = time.monotonic() - self._begin, self._seconds
        self.restart()
        return seconds, {name: part / max(seconds, 1e-9) for name, part in parts.items()}


def advice(seconds: float, share: float, config: DataConfig) -> str:
    """One line for the user if the devices wait for data; otherwise empty.

    Args:
        seconds: seconds of an epoch.
        share: share of the epoch in which the devices waited, 0 to 1.
        config: how the data are read.
    """
    if share < WARN_SHARE or share * seconds < WARN_SECONDS:
        return ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = "" if config.workers else f" or data.threads (now {config.threads})"  # without effect next to workers
    return (
        f"The devices waited for data in {share:.0%} of the epoch. Raise data.workers (now {config.workers}, with "
        f"{cores} cores here){threads}, pack the data set (jaxhand pack), or move it to a faster disk"
    )
