"""Batches that are read in other processes (`data.workers`).

About half of the time for a small photograph is spent in Python, which runs in one thread of a process at a time. So a
third thread brings little, but every process does.

A batch is read whole by one process, and it depends only on its number. So batches, their order and the state of the
iterator do not depend on the number of processes. Arrays are sent in anonymous shared memory, which ends with the
processes that use it, and which the size of /dev/shm does not limit.
"""

import atexit
import concurrent.futures
import functools
import itertools
import mmap
import multiprocessing
import multiprocessing.context
import os
import pickle
import signal
import sys
import threading
import typing
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker

import cv2
import jax
import numpy as np
from grain.sources import RandomAccessDataSource

from jaxhand.config import UserError
from jaxhand.data import memory
from jaxhand.data.batch import Batch

POSSIBLE = hasattr(os, "memfd_create")  # Linux
_numbers = itertools.count()


class InProcesses:
    """Maps a number to a batch as `make()` does, but in other processes. Several threads may call it at the same time.

    Args:
        make: returns the mapping from a number to a batch. It is pickled, and called once in every process.
        workers: number of processes. All instances with the same number share them.

    Raises:
        UserError: the data set cannot be pickled.
    """

    def __init__(self, make: Callable[[], RandomAccessDataSource[Batch]], workers: int):
        self._length, self._pool = len(make()), _pool(workers)
        self._make, self._free = _Sent(make), []

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        try:
            block = self._free.pop()
        except IndexError:
            block = _SharedBlock()
        try:
            places = self._pool.submit(_read, self._make.address, block.address, int(index)).result()
        except BrokenProcessPool:
            _pool.cache_clear()  # so that a later training in this process starts new ones
            guard = 'a script without `if __name__ == "__main__":`'
            raise UserError(
                f"a process of data.workers has ended (lack of memory, or {guard}?): lower data.workers"
            ) from None
        arrays = memory.arrays(block.mapped(), places, functools.partial(self._free.append, block))
        return typing.cast(Batch, arrays)


class _Address(typing.NamedTuple):
    """How another process opens a block. The path of a closed block can occur again, but not with the same number."""

    path: str
    number: int


class _SharedBlock:
    """Memory that other processes of the user can open by its `address`."""

    def __init__(self):
        self.file = os.fdopen(os.memfd_create("jaxhand"), "r+b")
        self.address = _Address(f"/proc/{os.getpid()}/fd/{self.file.fileno()}", next(_numbers))
        self._mapped = None

    def mapped(self) -> mmap.mmap:
        """The memory as a buffer, in the size that it has now."""
        if self._mapped is None or len(self._mapped) < os.fstat(self.file.fileno()).st_size:
            self._mapped = mmap.mmap(self.file.fileno(), 0)
        return self._mapped


class _Sent:
    """A pickled object in shared memory. Its arrays are there once, for all processes that load it."""

    def __init__(self, value: Callable):
        parts: list[pickle.PickleBuffer] = []
        try:
            content = pickle.dumps(value, protocol=5, buffer_callback=parts.append)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise UserError(
                f"data.workers needs a data set that can be pickled ({error}): set data.workers=0"
            ) from error
        self._block = _SharedBlock()
        buffers = {str(i): np.asarray(part.raw()) for i, part in enumerate(parts)}
        places = _write(self._block.file, {"pickle": np.frombuffer(content, np.uint8)} | buffers)
        self.address = (self._block.address, tuple(places.items()))


class _Process(multiprocessing.context.SpawnProcess):
    """A process that the pool can end although it ignores SIGTERM.

    When one process is killed, the pool terminates the others and waits for their end.
    """

    terminate = multiprocessing.context.SpawnProcess.kill


class _Context(multiprocessing.context.SpawnContext):
    """Starts processes without a fork, which would copy the threads' locks in any state."""

    Process = _Process


@functools.cache
def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Processes that start when they are first used, and end with this one."""
    # A process that is ended at once leaves the pool's semaphores to the resource tracker, which removes them. Its
    # warning about them would follow the line that says why the process has ended.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    resource_tracker.ensure_running()
    sys.warnoptions.pop()
    try:
        pool = concurrent.futures.ProcessPoolExecutor(workers, _Context(), initializer=_prepare)
    except OSError as error:
        place = f"data.workers cannot make semaphores in /dev/shm ({error.strerror})"
        raise UserError(f"{place}: make it writable, or set data.workers=0") from error
    atexit.register(pool.shutdown)  # while all modules that it needs are still there
    return pool


def _write(file: typing.BinaryIO, arrays: Mapping[str, np.ndarray]) -> dict[str, memory.Place]:
    """Write arrays to a block, which is made larger if it is too small; returns where they are."""
    places, size = memory.places({name: (array.shape, array.dtype) for name, array in arrays.items()})
    if os.fstat(file.fileno()).st_size < size:
        os.ftruncate(file.fileno(), size)
    for name, place in places.items():
        file.seek(place.begin)
        file.write(np.ascontiguousarray(arrays[name]).data)
    file.flush()
    return places


# ---- In the other processes


def _prepare() -> None:
    """Prepare a process. Signals are for the main process, which then ends this one when it has saved the run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    jax.config.update("jax_platforms", "cpu")  # a user's own data set may use JAX; it must not take memory of a GPU


def _end_with_parent() -> None:
    """End this process when the main process is gone, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _read(batches: tuple, block: _Address, number: int) -> dict[str, memory.Place]:
    """Write batch `number` to a block; returns where its arrays are."""
    return _write(_opened(block), typing.cast(dict, _batches(*batches)[number]))


@functools.cache
def _opened(block: _Address) -> typing.BinaryIO:
    return open(block.path, "r+b")


@functools.cache
def _batches(block: _Address, places: tuple) -> RandomAccessDataSource[Batch]:
    with open(block.path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    parts = memory.arrays(content, dict(places), lambda: None)
    return pickle.loads(parts.pop("pickle").data, buffers=parts.values())()
