"""Batches are on the devices ahead of the step; the time of an epoch by parts; the trace of some steps."""

import contextlib
import queue
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.config import DataConfig, UserError
from jaxhand.training import epoch_times, step_trace
from jaxhand.training.epoch_times import EpochTimes, advice
from jaxhand.training.feed import Feed
from jaxhand.training.step_trace import StepTrace

SECONDS = 10  # until a test gives up


class Batches:
    """Batch i has the index [i]; `there` opens the way to the batches from 1 on."""

    def __init__(self, last=1000):
        self.next_index, self.last, self.there = 0, last, threading.Event()
        self.there.set()

    def __next__(self):
        assert self.next_index == 0 or self.there.wait(SECONDS)
        if self.next_index > self.last:
            raise UserError("image 7 is cut off")
        self.next_index += 1
        return {"index": np.array([self.next_index - 1])}

    def get_state(self):
        return {"next_index": self.next_index}


def test_the_next_batch_is_put_before_the_step_has_ended():
    """It is on the devices although nobody has asked for it, or has waited for a result of the step."""
    put = queue.Queue()
    feed = Feed(Batches(), lambda batch: put.put(batch) or batch, EpochTimes())
    assert feed.get_state() == {"next_index": 0}
    for step in range(4):
        indices, batch = feed.take()
        assert indices == [step] and batch["index"] == [step]
        if step == 0:
            assert put.get(timeout=SECONDS)["index"] == [0]
        assert put.get(timeout=SECONDS)["index"] == [step + 1]
        assert feed.get_state() == {"next_index": step + 1}  # a checkpoint goes on with the batch that is not trained


def test_only_time_without_work_counts_as_waiting():
    """The wait for a batch begins when the step has ended; if the batch is there, the step is not waited for."""
    events = []

    class Times:
        @contextlib.contextmanager
        def part(self, name):
            events.append(name)
            batches.there.set()
            yield

    class Busy:
        def block_until_ready(self):
            events.append("the step has ended")

    batches = Batches()
    feed = Feed(batches, lambda batch: batch, Times())
    feed.take(Busy())
    batches.there.clear()
    while feed._next.done():  # batch 1 may have been read before
        feed.take(Busy())
    events.clear()
    feed.take(Busy())
    assert events == ["the step has ended", "data_wait"]
    with contextlib.suppress(TimeoutError):
        feed._next.exception(SECONDS)
    feed.take(Busy())
    assert events[2:] == ["data_wait"]


def test_an_error_of_the_data_ends_the_run():
    feed = Feed(Batches(last=1), lambda batch: batch, EpochTimes())
    assert [int(feed.take()[0][0]) for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match="image 7 is cut off"):
        feed.take()


def test_shares_of_an_epoch(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(epoch_times.time, "monotonic", lambda: now[0])
    times = EpochTimes()
    for part, seconds in (("data_wait", 1.0), ("data_wait", 2.0), ("save", 1.0)):
        with times.part(part):
            now[0] += seconds
    now[0] += 6
    assert times.end_epoch() == (10.0, {"data_wait": 0.3, "test": 0.0, "save": 0.1})
    with times.part("data_wait"):
        now[0] += 9
    times.restart()
    now[0] += 4
    assert times.end_epoch() == (4.0, {"data_wait": 0.0, "test": 0.0, "save": 0.0})
    with times.part("test"):
        now[0] += 0.25
    now[0] += 0.25
    assert times.end_epoch() == (0.5, {"data_wait": 0.0, "test": 0.5, "save": 0.0})


def test_advice_where_the_devices_wait_for_data():
    assert advice(600.0, 0.19, DataConfig()) == advice(2.0, 0.9, DataConfig()) == ""
    line = advice(600.0, 0.43, DataConfig(threads=3))
    assert line.startswith("The devices waited for data in 43% of the epoch. Raise data.workers (now 0, with ")
    assert "data.threads (now 3)" in line and "jaxhand pack" in line and "\n" not in line
    assert "data.threads" not in advice(600.0, 0.43, DataConfig(workers=2))  # they are not used then


def traced(trace, steps):
    for step in steps:
        with trace.step(step):
            result = jnp.ones(8) + step
        trace.stop_after(result)


def test_a_trace_of_some_steps(tmp_path):
    """Also of a run that goes on between the first and the last step, and only once."""
    said = []
    trace = StepTrace((2, 4), tmp_path, said.append)
    traced(trace, range(3, 8))
    [place] = (tmp_path / "plugins" / "profile").iterdir()
    assert said == [f"Wrote a trace of steps 3 to 4 to {place} (for TensorBoard or ui.perfetto.dev)"]
    assert list(place.glob("*.xplane.pb")) and list(place.glob("*.trace.json.gz"))

    trace = StepTrace((2, 4), tmp_path / "stopped", said.append)  # the run ends before the last step
    traced(trace, range(1, 4))
    trace.stop()
    trace.stop()
    assert len(said) == 2 and said[1].startswith("Wrote a trace of steps 2 to 3 to ")

    for steps, run in ((None, range(1, 9)), ((2, 4), range(5, 9)), ((20, 40), range(1, 9))):
        trace = StepTrace(steps, tmp_path / "none", said.append)
        traced(trace, run)
        trace.stop()
    assert len(said) == 2 and not (tmp_path / "none").exists()


@pytest.mark.parametrize("place", ["start_trace", "stop_trace"])
def test_a_trace_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch, place):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no space left\nmore")

    said = []
    monkeypatch.setattr(step_trace.jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(step_trace.jax.profiler, place, fail)
    traced(StepTrace((2, 4), tmp_path, said.append), range(1, 8))
    wanted = "training.profile: no trace could be written (RESOURCE_EXHAUSTED: no space left); the run goes on"
    assert said == [wanted]
