"""Batches that other processes read are those of this process."""

import contextlib
import errno
import json
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from jaxhand.config import UserError, load
from jaxhand.data import workers
from jaxhand.data.own_source import OwnSource
from jaxhand.data.pipeline import eval_batches, train_iterator
from jaxhand.data.record import Record

SECONDS = 30  # until a test gives up
ROTATED = "data.augment={rotation_deg: 30, scale: 0.2, shift: 0.1}"


class Source:
    """Noise images with arrays that are shared; record 26 is damaged if `damaged`."""

    def __init__(self, damaged=False):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 255, (27, 16, 16, 3), np.uint8)
        self.joints, self.damaged = rng.uniform((-90, -90, 400), (90, 90, 500), (27, 21, 3)), damaged

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        if self.damaged and i == 26:
            raise UserError("image 26 is cut off")
        K = np.array([[20.0, 0, 7.5], [0, 20.0, 7.5], [0, 0, 1]])
        return Record(self.images[i], K, self.joints[i], np.ones(21), "right" if i % 3 else "left")


class WithLock(Source):
    def __init__(self):
        super().__init__()
        self.function = lambda: None


def config(*overrides):
    return load(None, ["training.batch_size=6", "data.image_size=16", ROTATED, *overrides])


def assert_same(one, two):
    assert list(one) == list(two)
    for key in one:
        assert one[key].dtype == two[key].dtype
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def identify(_):
    time.sleep(0.1)
    return os.getpid()


def ready(pool):
    """The ids of the processes, when all have started."""
    found, deadline = set(), time.monotonic() + 60
    while len(found) < 2 and time.monotonic() < deadline:
        found |= set(pool.map(identify, range(4), timeout=60))
    return found


@pytest.fixture(scope="module", autouse=True)
def pool():
    """The processes of all tests here, which end with them."""
    yield workers._pool(2)
    workers._pool(2).shutdown(cancel_futures=True)
    workers._pool.cache_clear()


def test_any_number_of_processes_reads_the_same_batches_and_goes_on_the_same(pool):
    """Also after a signal to the processes: only the main process handles it."""
    here, there = train_iterator(Source(), config()), train_iterator(Source(), config("data.workers=2"))
    kept = [next(there) for _ in range(9)]  # more than are read ahead, over two epochs
    for process in ready(pool):
        os.kill(process, signal.SIGTERM)
        os.kill(process, signal.SIGINT)
    expected = [next(here) for _ in range(14)]
    for one, two in zip(expected, kept):
        assert_same(one, two)
    assert there.get_state() == {"next_index": 9}

    resumed = train_iterator(Source(), config("data.threads=3"))
    resumed.set_state(json.loads(json.dumps(there.get_state())))
    here.set_state(there.get_state())
    there.set_state({"next_index": 11})
    for step, batch in enumerate(expected[9:], 9):
        assert_same(next(resumed), batch)
        assert_same(next(here), batch)
        if step >= 11:
            assert_same(next(there), batch)


def test_evaluation(pool):
    here, there = eval_batches(Source(), config(), 8), eval_batches(Source(), config("data.workers=2"), 8)
    for _ in range(2):
        batches = list(there)
        assert len(batches) == 4
        for one, two in zip(here, batches):
            assert_same(one, two)


def test_memory_is_used_again(pool):
    batches = workers.InProcesses(Batches, 2)
    assert len(batches) == 3
    first = batches[0]
    second = batches[1]
    assert (first["x"] == 0).all() and (second["x"] == 1).all()
    address = second["x"].ctypes.data
    del second
    assert batches[2]["x"].ctypes.data == address and (first["x"] == 0).all()


class Batches:
    def __len__(self):
        return 3

    def __getitem__(self, number):
        return {"x": np.full((5, 7), number), "empty": np.empty((0, 2), np.float32)}


def test_a_source_of_a_user_can_be_sent():
    one = OwnSource(Source(), "own")
    two = pickle.loads(pickle.dumps(one))
    assert (len(two), two.name) == (27, "own") and np.array_equal(two[4].image, one[4].image)


def test_errors_are_those_of_the_data_set(pool):
    with pytest.raises(UserError) as error:
        list(eval_batches(Source(damaged=True), config("data.workers=2"), 8))
    assert str(error.value) == "image 26 is cut off"
    with pytest.raises(UserError, match="data.workers needs a data set that can be pickled .*: set data.workers=0"):
        train_iterator(WithLock(), config("data.workers=2"))


def test_a_machine_without_semaphores_is_an_error(monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(workers.concurrent.futures, "ProcessPoolExecutor", full)
    with pytest.raises(UserError, match=r"semaphores in /dev/shm \(Read-only file system\): .* data.workers=0"):
        workers._pool(3)


def test_a_process_that_is_killed_is_an_error(pool):
    """The others end too, even one that cannot end by itself; a later training starts new ones."""
    iterator = train_iterator(Source(), config("data.workers=2"))
    next(iterator)
    killed, stopped = sorted(ready(pool))
    os.kill(stopped, signal.SIGSTOP)
    os.kill(killed, signal.SIGKILL)
    try:
        with pytest.raises(UserError, match="a process of data.workers has ended .*: lower data.workers"):
            for _ in range(50):
                next(iterator)
        deadline = time.monotonic() + SECONDS
        while Path(f"/proc/{stopped}").exists() and time.monotonic() < deadline:  # the pool's thread waits for it, too
            time.sleep(0.05)
        assert not Path(f"/proc/{stopped}").exists()
        assert workers._pool(2) is not pool
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGKILL)
