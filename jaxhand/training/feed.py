"""Training batches on the devices, ahead of the step."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxhand.io import console
from jaxhand.training.epoch_times import EpochTimes


class Feed:
    """Reads the next batch, and puts it on the devices, in another thread while the devices compute a step.

    The time in which the devices have no work because a batch is not there is measured as "data_wait".

    Args:
        batches: endless batches on the host, with `get_state`. Nothing else may read from them.
        put: puts a batch on the devices.
        times: where the time is measured.
    """

    def __init__(self, batches: Any, put: Callable[[dict], dict], times: EpochTimes):
        self._batches, self._put, self._times = batches, put, times
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "feed")
        self._state, self._next = batches.get_state(), self._thread.submit(self._read)

    def wait(self) -> None:
        """Wait until the next batch is on the devices."""
        if not self._next.done():
            with console.patience("waiting for a batch of data.train"):
                concurrent.futures.wait([self._next])

    def take(self, busy: jax.Array | None = None) -> tuple[np.ndarray, dict]:
        """Return the next batch, and start to read the one after it.

        Args:
            busy: a result of the step that the devices compute; None: they compute nothing.

        Returns:
            The batch's indices of records, on the host, and the batch on the devices.
        """
        if not self._next.done():
            jax.block_until_ready(busy)  # until then, the devices do not wait for the batch
        with self._times.part("data_wait"):
            self.wait()
        self._state, indices, batch = self._next.result()
        self._next = self._thread.submit(self._read)
        return indices, batch

    def get_state(self) -> dict:
        """The state of `batches` after the batch that was taken last."""
        return self._state

    def _read(self) -> tuple[dict, np.ndarray, dict]:
        with jax.profiler.TraceAnnotation("read batch"):
            batch = next(self._batches)
        with jax.profiler.TraceAnnotation("put batch"):
            return self._batches.get_state(), batch["index"], self._put(batch)
