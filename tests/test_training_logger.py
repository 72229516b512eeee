"""Logs: they are always complete on disk, and a resumed run leaves neither gaps nor duplicates in them."""

import io
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.proto.event_pb2 import Event

from jaxhand.config import UserError
from jaxhand.training import logger as logger_module
from jaxhand.training.logger import Logger


def read_raw(workdir):
    """Every record of every file in order, as read by a program that ignores purge events: [(step, tag)]."""
    found = []
    for path in sorted((workdir / "tensorboard").glob("*tfevents*")):
        with path.open("rb") as file:
            while record := logger_module._read_record(file):
                event = Event.FromString(record[12:-4])
                found += [(event.step, value.tag) for value in event.summary.value]
    return found


def read_tensorboard(workdir, tag="loss/train"):
    accumulator = EventAccumulator(str(workdir / "tensorboard"))
    accumulator.Reload()
    return [(point.step, point.value) for point in accumulator.Scalars(tag)]


def read_lines(workdir):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write(workdir, steps, resume_step=None, value=1.0):
    logger = Logger(workdir, is_main=True, resume_step=resume_step)
    for step in steps:
        logger.scalars(step, {"loss/train": value, "lr": 0.1})
        if step % 10 == 0:
            logger.image(step, "samples", np.full((4, 6, 3), step, np.uint8))
            logger.epoch({"epoch": step // 10, "step": step, "mpjpe": value})
    return logger


def test_flush_leaves_nothing_behind(tmp_path):
    logger = write(tmp_path, range(1, 200))
    logger.flush()
    assert len(read_raw(tmp_path)) == 2 * 199 + 19
    logger.close()
    logger.close()
    assert read_tensorboard(tmp_path)[-1] == (199, 1.0)


@pytest.mark.parametrize("resume_step, last", [(20, 20), (None, 0), (35, 35), (99, 35)])
def test_resume_has_no_doubles_and_no_gaps(tmp_path, resume_step, last):
    write(tmp_path, range(1, 36), value=1.0).close()
    write(tmp_path, range(last + 1, 51), resume_step=resume_step, value=2.0).close()
    wanted = [(step, 1.0 if step <= last else 2.0) for step in range(1, 51)]
    assert read_tensorboard(tmp_path) == wanted
    assert [step for step, tag in read_raw(tmp_path) if tag == "loss/train"] == list(range(1, 51))
    assert [step for step, tag in read_raw(tmp_path) if tag == "samples"] == [10, 20, 30, 40, 50]
    assert [line["step"] for line in read_lines(tmp_path)] == [10, 20, 30, 40, 50]
    assert [line["mpjpe"] for line in read_lines(tmp_path)] == [value for step, value in wanted if step % 10 == 0]


def test_resume_of_a_resume(tmp_path):
    write(tmp_path, range(1, 31)).close()
    write(tmp_path, range(21, 41), resume_step=20).close()
    write(tmp_path, range(11, 31), resume_step=10).close()
    assert [step for step, _ in read_tensorboard(tmp_path)] == list(range(1, 31))
    assert [line["step"] for line in read_lines(tmp_path)] == [10, 20, 30]


def test_an_open_tensorboard_forgets_what_a_resume_removes(tmp_path):
    write(tmp_path, range(1, 36)).close()
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    write(tmp_path, range(21, 41), resume_step=20, value=2.0).close()
    accumulator.Reload()
    assert [point.step for point in accumulator.Scalars("loss/train")] == list(range(1, 41))


def test_metrics_without_a_checkpoint_are_kept(tmp_path, capsys):
    write(tmp_path, range(1, 31)).close()
    (tmp_path / "metrics.jsonl").write_bytes(before := (tmp_path / "metrics.jsonl").read_bytes() + b"\xff\xfe\n")
    write(tmp_path, range(1, 11)).close()  # the checkpoints are gone: a new run in the same folder
    assert (tmp_path / "metrics.before.jsonl").read_bytes() == before
    assert f"the metrics of before are now in {tmp_path / 'metrics.before.jsonl'}" in capsys.readouterr().out
    (tmp_path / "metrics.jsonl").write_bytes((tmp_path / "metrics.jsonl").read_bytes() + b"\xff\xfe\n")
    write(tmp_path, range(11, 21), resume_step=10).close()
    assert [line["step"] for line in read_lines(tmp_path)] == [10, 20]


def test_metrics_that_are_kept_are_not_replaced(tmp_path):
    for last in (10, 20, 30):
        write(tmp_path, range(1, last + 1)).close()
    kept = [tmp_path / name for name in ("metrics.before.jsonl", "metrics.before-2.jsonl", "metrics.jsonl")]
    assert [len(path.read_text().splitlines()) for path in kept] == [1, 2, 3]
    for last, name in ((10, "tensorboard.before"), (20, "tensorboard.before-2"), (30, "tensorboard")):
        accumulator = EventAccumulator(str(tmp_path / name)).Reload()
        assert accumulator.Scalars("loss/train")[-1].step == last


def test_cut_off_files_are_mended(tmp_path):
    write(tmp_path, range(1, 31)).close()
    events = next((tmp_path / "tensorboard").iterdir())
    os.truncate(events, events.stat().st_size - 7)
    with events.open("ab") as file:
        file.write(bytes(100))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "mp')
    write(tmp_path, range(31, 41), resume_step=30).close()
    assert [line["step"] for line in read_lines(tmp_path)] == [10, 20, 30, 40]
    assert [step for step, tag in read_raw(tmp_path) if tag == "loss/train"] == list(range(1, 41))


def test_lines_are_valid_json(tmp_path):
    logger = Logger(tmp_path, is_main=True)
    logger.epoch({"step": np.int64(3), "a": np.float32(0.5), "b": jnp.float32(2)})
    logger.epoch({"step": 4, "c": float("inf"), "d": {"e": [np.float32("nan")]}})
    assert read_lines(tmp_path) == [{"step": 3, "a": 0.5, "b": 2.0}, {"step": 4, "c": None, "d": {"e": [None]}}]
    with pytest.raises(KeyError, match="step"):
        logger.epoch({"epoch": 0})


def test_values_and_pictures_reach_tensorboard(tmp_path):
    logger = Logger(tmp_path, is_main=True)
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200  # red
    logger.image(7, "samples", image)
    logger.scalars(7, {"loss/train": jnp.float32(0.5), "bad": float("nan")})
    logger.close()
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    (picture,) = accumulator.Images("samples")
    decoded = logger_module.cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), 1)[..., ::-1]
    assert (picture.step, picture.height, picture.width) == (7, 4, 6)
    np.testing.assert_array_equal(decoded, image)
    assert accumulator.Scalars("loss/train")[0].value == 0.5


def test_other_processes_write_nothing(tmp_path, capsys):
    logger = write(tmp_path / "run", [10]) and Logger(tmp_path / "other", is_main=False)
    logger.scalars(1, {"a": 1.0})
    logger.image(1, "a", np.zeros((2, 2, 3), np.uint8))
    logger.epoch({"step": 1})
    logger.print("nothing")
    with logger.progress(10) as bar:
        bar.step(5, 0.1)
    logger.flush()
    logger.close()
    assert not (tmp_path / "other").exists()
    assert capsys.readouterr() == ("", "")


def test_a_log_file_gets_lines_and_no_bar(tmp_path):
    code = (
        "import sys; from jaxhand.training.logger import Logger; logger = Logger(sys.argv[1], is_main=True)\n"
        "with logger.progress(30, desc='Epoch 0') as bar:\n"
        "    for _ in range(3): bar.step(10, object())\n"
        "    logger.print('Epoch 0: Train Loss = 0.6958')"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("Epoch 0: Train Loss = 0.6958\n", "")


def test_a_log_file_gets_lines_about_a_long_epoch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logger_module, "FIRST_LINE_SECONDS", 0.0)
    logger = Logger(tmp_path, is_main=True)
    with logger.progress(40, initial=10, desc="Epoch 1") as bar:
        bar.step(10, jnp.float32(0.25))
        bar.lines._wait = 1000
        bar.step(10, object())
    assert capsys.readouterr() == ("", "Epoch 1: 20 of 40 images (50%), loss=0.2500\n")


def test_a_terminal_gets_the_bar(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    logger = Logger(tmp_path, is_main=True)
    with logger.progress(40, initial=10, desc="Epoch 1") as bar:
        bar.mininterval = 0
        for _ in range(3):
            bar.step(10, jnp.float32(0.25))
        logger.print("a line")
    text = terminal.getvalue()
    assert "Epoch 1" in text and "img/s" in text and "loss=0.2500" in text
    assert any(part.startswith("a line") for part in text.replace("\n", "\r").split("\r"))


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write the logs of .*file/run: Not a directory$"):
        Logger(tmp_path / "file" / "run", is_main=True)
