"""The output of a run: TensorBoard curves, one line of JSON per epoch, the console and its progress bar.

The calling thread writes the TensorBoard events. tensorboardX's SummaryWriter is not used: it writes in another thread,
and its flush returns before the events are on disk.
"""

import contextlib
import json
import math
import os
import struct
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue] (protobuf makes them)
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c
from tqdm import tqdm

from jaxhand.config import UserError
from jaxhand.io import console, output_files

FIRST_LINE_SECONDS = 60  # of an epoch, until the first line about its progress in a log file


class Logger:
    """Writes `tensorboard/` and `metrics.jsonl` in the run folder, and prints to the console.

    When a run continues from a checkpoint, all points and lines later than `resume_step` are removed from the files.
    So no step occurs twice. Without a checkpoint, earlier files are renamed. Signal handlers must not call the
    methods; a handler can set a flag, after which the training loop calls `close`.

    Args:
        workdir: run folder.
        is_main: True on the first process. On the other processes, False: the logger does nothing.
        resume_step: step of the checkpoint that the run continues from; None: there is no checkpoint.

    Raises:
        UserError: the folder cannot be written to. Every method that writes can raise this error, too.
    """

    def __init__(self, workdir: str | Path, *, is_main: bool, resume_step: int | None = None):
        self._workdir, self._is_main, self._closed = Path(workdir), is_main, False
        if not is_main:
            return
        last_step = -1 if resume_step is None else resume_step
        events, lines = self._workdir / "tensorboard", self._workdir / "metrics.jsonl"
        kept = []
        with self._writing():
            if resume_step is None:
                kept = [str(aside) for path in (lines, events) if (aside := output_files.keep_aside(path))]
            events.mkdir(parents=True, exist_ok=True)
            for path in sorted(events.glob("events.out.tfevents.*")):
                _trim_events(path, last_step)
            _trim_lines(lines, last_step)
            self._lines = lines.open("a")
            self._events = EventsWriter(str(events / "events"), filename_suffix=f".{time.time_ns()}")
            # A running TensorBoard has already read the removed points. This event makes it forget them.
            self._events.write_event(Event(step=last_step + 1, session_log=SessionLog(status=SessionLog.START)))
            self._events.flush()
        if kept:
            places = " and ".join(kept)
            self.print(f"There is no checkpoint, so training begins anew; the metrics of before are now in {places}")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add one point to the TensorBoard curve of each tag, such as `loss/train`."""
        if self._is_main:
            self._add(step, [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()])

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """Add an RGB image, (H, W, 3) uint8, to TensorBoard."""
        if self._is_main:
            (height, width, _), png = image.shape, cv2.imencode(".png", image[..., ::-1])[1].tobytes()
            picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            self._add(step, [Summary.Value(tag=tag, image=picture)])

    def epoch(self, line: dict) -> None:
        """Append one line to `metrics.jsonl` and flush everything to disk.

        Args:
            line: dict for JSON with the key `step`. NaN and infinity become null, because JSON has neither.
        """
        if self._is_main:
            text = json.dumps({"step": line["step"]} | line, default=lambda value: value.tolist())
            text = json.dumps(json.loads(text, parse_constant=lambda _: None))
            with self._writing():
                self._lines.write(text + "\n")
            self.flush()

    def print(self, line: str) -> None:
        """Print one line to stdout, above the progress bar. If stdout is closed or full, the run goes on."""
        if self._is_main:
            try:
                tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()
            except OSError as error:
                console.discard_stdout()
                lines = self._workdir / "metrics.jsonl"
                print(f"warning: stdout: {error.strerror}; the run goes on, see {lines}", file=sys.stderr, flush=True)

    def progress(self, total: int, *, initial: int = 0, desc: str = "") -> "Progress":
        """Make a progress bar that counts images; a context manager.

        It is shown if stderr is a terminal. Otherwise lines are printed, see `Progress`.

        Args:
            total: number of images of the epoch.
            initial: number of images that are already done.
            desc: text in front of the bar.
        """
        hidden = None if self._is_main else True  # None: hidden if stderr is not a terminal
        options = {"unit": "img", "mininterval": 0.5, "leave": False, "disable": hidden}
        progress = Progress(total=total, initial=initial, desc=desc, **options)
        if progress.disable and self._is_main:
            progress.lines = Lines(total, initial, desc)
        return progress

    def flush(self) -> None:
        """Flush all events and lines to disk."""
        if self._is_main and not self._closed:
            with self._writing():
                self._events.flush()
                self._lines.flush()
                os.fsync(self._lines.fileno())

    def close(self) -> None:
        """Flush all events and lines to disk and close the files; a second call does nothing."""
        if self._is_main and not self._closed:
            self.flush()
            self._closed = True
            self._events.close()
            self._lines.close()

    def _add(self, step: int, values: list) -> None:
        with self._writing():
            self._events.write_event(Event(wall_time=time.time(), step=int(step), summary=Summary(value=values)))

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write the logs of {self._workdir}: {error.strerror}") from error


class Progress(tqdm):
    """A tqdm bar with the loss: `Epoch 3:  42%|####     | 8640/20480 [00:12<00:17, 690.32img/s, loss=0.4123]`.

    Attributes:
        lines: prints lines instead of the bar; None: it does not.
    """

    lines: "Lines | None" = None

    def step(self, images: int, loss: float) -> None:
        """Add `images` to the count. `loss` is copied from the device only when it is shown: the copy waits."""
        if self.lines is not None:
            self.lines.step(images, loss)
        elif self.update(images):
            self.set_postfix_str(f"loss={float(loss):.4f}", refresh=False)


class Lines:
    """Lines on stderr, for output that goes to a file: after 1, 2, 4, 8, … minutes of an epoch.

    Args:
        total: number of images of the epoch.
        initial: number of images that are already done.
        name: start of the line, such as "Epoch 3".
    """

    def __init__(self, total: int, initial: int, name: str):
        self._total, self._done, self._name = total, initial, name
        self._begin, self._wait = time.monotonic(), FIRST_LINE_SECONDS

    def step(self, images: int, loss: float) -> None:
        """Add `images` to the count, and print a line if it is time for one."""
        self._done += images
        if time.monotonic() - self._begin > self._wait:
            self._wait *= 2
            share = f"{self._done} of {self._total} images ({self._done / self._total:.0%})"
            print(f"{self._name}: {share}, loss={float(loss):.4f}", file=sys.stderr, flush=True)


def _trim_events(path: Path, last_step: int) -> None:
    """Remove all records after `last_step`, and all after a damaged record, which no program can read."""
    kept = path.with_name("trimmed.tmp")  # a name without `tfevents`, which TensorBoard does not read
    with path.open("rb") as source, kept.open("wb") as target:
        while record := _read_record(source):
            with contextlib.suppress(DecodeError):
                if Event.FromString(record[12:-4]).step <= last_step:
                    target.write(record)
    if kept.stat().st_size:
        kept.replace(path)
    else:
        kept.unlink()
        path.unlink()


def _read_record(file) -> bytes:
    """The next TFRecord: length (8 bytes), CRC of the length (4), data, CRC of the data (4). Empty at the end."""
    header = file.read(12)
    if len(header) < 12 or struct.unpack("<I", header[8:])[0] != masked_crc32c(header[:8]):
        return b""
    length = struct.unpack("<Q", header[:8])[0] + 4
    content = file.read(length)
    return header + content if len(content) == length else b""


def _trim_lines(path: Path, last_step: int) -> None:
    """Remove all lines of a JSON-lines file after `last_step`, and a last line that is not complete."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    kept = path.with_name("metrics.jsonl.tmp")
    kept.write_text("".join(line + "\n" for line in lines if _step(line) <= last_step))
    kept.replace(path)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
