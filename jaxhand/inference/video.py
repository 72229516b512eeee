"""Track the hands of a video, and write them: an annotated video, tracks.jsonl and tracks.npz."""

import contextlib
import json
import signal
import tempfile
import typing
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import tqdm

from jaxhand.config import UserError
from jaxhand.evaluation.prediction_files import draft_of
from jaxhand.hand.draw import draw_mesh, draw_skeleton
from jaxhand.inference.smoothing import TrackedHand
from jaxhand.inference.video_files import Source, VideoFrame
from jaxhand.io import output_files
from jaxhand.io.video_writer import open_writer

ANNOTATED = "annotated.mp4"
MARK = b', "hands": ['  # in every line of tracks.jsonl
COLUMNS = {  # key in tracks.npz → (dtype, shape of one row); one row per hand of a frame
    "frame": (np.int64, ()),
    "time": (np.float64, ()),
    "track": (np.int64, ()),
    "is_right": (np.bool_, ()),
    "score": (np.float32, ()),
    "bridged": (np.bool_, ()),
    "keypoints_2d": (np.float32, (21, 2)),
    "keypoints_3d": (np.float32, (21, 3)),
    "raw_2d": (np.float32, (21, 2)),
    "raw_3d": (np.float32, (21, 3)),
}
_COPIED = 1 << 20  # bytes that are copied at a time
_MESH_OPACITY = 0.6
_BRIDGED = (160, 160, 160)  # RGB of the number of a hand that is not seen


class TrackWriter:
    """Writes the frames and hands of a video into a folder, frame by frame. Use it as a context manager.

    Args:
        folder: the output folder; it is created if it does not exist.
        source: the video, for its frame rate.
        K: (3, 3) px, kept in tracks.npz.

    Raises:
        UserError: a file cannot be written, or is of another program.
    """

    def __init__(self, folder: Path, source: Source, K: np.ndarray):
        self.video, self.lines, self.arrays = (folder / name for name in (ANNOTATED, "tracks.jsonl", "tracks.npz"))
        self._source, self._K, self._writer = source, K, None
        self._files = contextlib.ExitStack()
        self.hands = self.frames = self.bridged = 0
        self.tracks: set[int] = set()
        output_files.check_own(self.lines, MARK, self.video, self.arrays)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = self._files.enter_context(open(self.lines, "w", encoding="utf-8"))
            self._columns = {
                key: self._files.enter_context(tempfile.TemporaryFile(dir=folder)) for key in COLUMNS
            }  # what tracks.npz is made of at the end: memory does not grow
        except OSError as error:
            self._files.close()
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error

    def __enter__(self) -> "TrackWriter":
        return self

    def __exit__(self, *_) -> None:
        with self._files:
            if self._writer is not None:
                self._writer.close()
            self._write_arrays()

    def summary(self, seconds: float) -> str:
        """The lines that tell the user what was written in this time."""
        bridged = f", {self.bridged} of them bridged" if self.bridged else ""
        rate = self.frames / max(seconds, 1e-9)
        note = f" ({self._writer.note})" if self._writer is not None and self._writer.note else ""
        return (
            f"{self.hands} hands in {self.frames} frames{bridged}; {len(self.tracks)} tracks; {rate:.1f} frames/s\n"
            f"  -> {self.video}{note}\n  -> {self.lines}\n  -> {self.arrays}"
        )

    def add(self, frame: VideoFrame, hands: list[TrackedHand]) -> None:
        """Write one frame.

        Raises:
            UserError: a file cannot be written.
        """
        if self._writer is None:
            height, width = frame.image.shape[:2]
            self._writer = open_writer(self.video, (width, height), self._source.fps)
        try:
            self._writer.add(annotated(frame.image, hands, self._K), frame.seconds)
            entry = {"frame": frame.index, "time": round(frame.seconds, 6), "hands": [_entry(hand) for hand in hands]}
            self._lines.write(json.dumps(entry) + "\n")
            self._lines.flush()
            for hand in hands:
                row: Mapping[str, typing.Any] = {"frame": frame.index, "time": frame.seconds} | vars(hand)
                for key, (dtype, _) in COLUMNS.items():
                    self._columns[key].write(np.asarray(row[key], dtype).tobytes())
        except OSError as error:
            raise UserError(f"cannot write to {self.lines.parent}: {error.strerror or error}") from error
        self.frames += 1
        self.hands += len(hands)
        self.bridged += sum(hand.bridged for hand in hands)
        self.tracks.update(hand.track for hand in hands)

    def _write_arrays(self) -> None:
        """Write tracks.npz from the columns, a piece at a time."""
        with draft_of(self.arrays) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, True, 1) as archive:
            for key, (dtype, shape) in COLUMNS.items():
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (self.hands, *shape)}
                with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    self._columns[key].seek(0)
                    while piece := self._columns[key].read(_COPIED):
                        file.write(piece)
            with archive.open("K.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(self._K, np.float64))


def annotated(image: np.ndarray, hands: list[TrackedHand], K: np.ndarray) -> np.ndarray:
    """Draw the mesh where there is one, and the skeleton, number and side of each hand; bridged hands: grey numbers.

    Args:
        image: (H, W, 3) uint8.
        hands: the hands of the image.
        K: (3, 3) px.

    Returns:
        (H, W, 3) uint8.
    """
    image = image.copy()
    for hand in sorted(hands, key=lambda hand: -hand.keypoints_3d[:, 2].mean()):  # near hands over far ones
        if hand.vertices is not None and hand.faces is not None:
            image = draw_mesh(image, hand.vertices, hand.faces, K, alpha=_MESH_OPACITY)
        image = draw_skeleton(image, hand.keypoints_2d, scale=1)
        text = f"{hand.track} {'right' if hand.is_right else 'left'}"
        size = max(max(image.shape[:2]) / 1200, 0.45)  # smaller letters cannot be read
        x, y = (np.nan_to_num(hand.keypoints_2d[0]) + (-20 * size, 35 * size)).astype(int).tolist()  # below the wrist
        weight, edge = max(1, round(1.5 * size)), max(1, round(2 * size))
        dark = [((x + i, y + j), (0, 0, 0)) for i in (-edge, 0, edge) for j in (-edge, 0, edge)]
        for place, color in (*dark, ((x, y), _BRIDGED if hand.bridged else (255, 255, 255))):
            cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, weight, cv2.LINE_AA)
    return image


def until_interrupted(frames: Iterable[VideoFrame], source: Source) -> Iterator[VideoFrame]:
    """Yield frames until Ctrl-C, and show how many are done and how long the others take.

    Ctrl-C takes effect after the frame that is being processed, so that all files are complete.
    """
    interrupts = []
    handler = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        for frame in tqdm.tqdm(frames, total=source.count, unit="frame", desc="tracking", disable=None):
            yield frame
            if interrupts:
                return
    finally:
        signal.signal(signal.SIGINT, handler)


def _entry(hand: TrackedHand) -> dict:
    """One hand of a line of tracks.jsonl."""
    return {
        "track": hand.track,
        "hand": "right" if hand.is_right else "left",
        "score": round(hand.score, 4),
        "bridged": hand.bridged,
        "joints_2d": np.round(hand.keypoints_2d.astype(float), 2).tolist(),
        "joints_3d": np.round(hand.keypoints_3d.astype(float), 2).tolist(),
    }
