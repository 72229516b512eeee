"""A user's own labelled images: `images/`, and `train.jsonl` and `test.jsonl` with one JSON object per line.

A line has `image` (path in the folder), `hand` ("right" or "left"), `K` (3x3, of the complete image) and `joints_3d`
(21x3 mm, OpenCV camera frame, wrist first). It may have `joint_valid` (21), `bbox` (x0, y0, x1, y1 px) and `depth`
(path of a 16-bit PNG in mm, 0 where unknown, of the same size as the image).

Labels are those of the upright image: an image is turned by its EXIF orientation when it is read.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json_once
from jaxhand.data.checks import array_of, checked_bbox, checked_K
from jaxhand.data.datasets.base import EncodedImageSource, ManoLabels, UnknownSplit
from jaxhand.data.images.depth import read_grey
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.label_checks import joint_reasons, left_out
from jaxhand.data.record import Record
from jaxhand.hand.camera import project

VAL_EVERY = 5  # every fifth line of train.jsonl can be held out as "val"


def load(
    path: str | Path, split: str, *, variant: str = "", without_val: bool = False, mano: ManoLabels | None = None
) -> "FolderSet":
    """Read and check the labels of a folder. Images must exist; only their size is read.

    A hand none of whose joints lies in its image is left out, and `left_out` of the result counts such hands.

    Args:
        path: the folder.
        split: "train" and "test" are the files of this name; "val" is every fifth line of train.jsonl.
        variant: must be empty.
        without_val: leave the lines of "val" out of "train".
        mano: not used, because these labels are only joints.

    Raises:
        UserError: a line is wrong; the message names file, line and fault. Reading a record also raises UserError, if
            the image cannot be decoded.
    """
    if variant:
        raise UnknownSplit(f"folder-{variant}: unknown; write folder:PATH")
    folder = Path(path).expanduser()
    file = folder / ("test.jsonl" if split == "test" else "train.jsonl")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder; give the folder with train.jsonl and test.jsonl")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; write the labels to it, one JSON object per line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as text ({error}); save the file as UTF-8") from None
    entries = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                entries.append(_Entry(folder, line, f"{file}:{number}"))
            except UserError as error:
                raise UserError(f"{file}:{number}: {error}") from None
    if not entries:
        raise UserError(f"{file}: empty; write the labels to it, one JSON object per line")
    _check_bones(entries)
    if split == "val" or without_val and split == "train":
        entries = [e for i, e in enumerate(entries) if (i % VAL_EVERY == VAL_EVERY - 1) == (split == "val")]
        if not entries:
            raise UserError(f"{file}: too few lines for a split val; at least {VAL_EVERY} lines are needed")
    outside = _outside(entries)
    if outside.all():
        entries[0].read()  # raises a UserError
    return FolderSet(entries, outside)


class FolderSet(EncodedImageSource):
    """The lines of a folder's label file as records.

    Args:
        entries: N lines.
        outside: (N,) bool, True for lines that are left out, because the hand is not in its image.
    """

    def __init__(self, entries: list["_Entry"], outside: np.ndarray):
        self._entries = [entry for entry, is_outside in zip(entries, outside) if not is_outside]
        self.left_out = left_out({"no joint lies in the image": outside}, lambda i: entries[i].location)[1]

    def __len__(self) -> int:
        return len(self._entries)

    def read_encoded(self, index: int) -> Record:
        """Return record `index` with its image as an `EncodedImage`."""
        return self._entries[index].read()

    def read_annotation(self, index: int) -> Record:
        """Return record `index` without image and depth."""
        return Record(image=None, **self._entries[index].labels)

    def encoded(self, index: int) -> tuple[bytes, None]:
        """Return the bytes of the image file of record `index`, and None instead of a depth file."""
        return Path(self._entries[index].image).read_bytes(), None


class _Entry:
    """The checked labels of one line. The constructor raises errors without file and line number; `load` adds them."""

    def __init__(self, folder: Path, line: str, location: str):
        try:
            fields = parse_json_once(line)
        except ValueError as error:
            raise UserError(f"not valid JSON ({error})") from None
        if not isinstance(fields, dict):
            raise UserError("not a JSON object")
        for key in ("image", "hand", "K", "joints_3d"):
            if key not in fields:
                raise UserError(f"missing key {key!r}")
        if fields["hand"] not in ("right", "left"):
            raise UserError(f'hand must be "right" or "left", got {ascii(fields["hand"])[:100]}')
        self.location = location
        self.image = _file(folder, fields["image"], "image")
        self.depth = None if fields.get("depth") is None else _file(folder, fields["depth"], "depth")
        joint_valid = np.ones(21) if fields.get("joint_valid") is None else array_of(fields, "joint_valid", (21,))
        self.labels = {
            "hand": fields["hand"],
            "K": checked_K(array_of(fields, "K", (3, 3))),
            "joint_valid": (joint_valid > 0).astype(np.float32),
            "keypoints_3d": _checked_joints(array_of(fields, "joints_3d", (21, 3)), joint_valid > 0),
            "bbox": None if fields.get("bbox") is None else checked_bbox(array_of(fields, "bbox", (4,))),
            "name": fields["image"],
        }

    def read(self) -> Record:
        """Return the record, with its encoded image and its decoded depth image."""
        image = EncodedImage.read(self.image, self.location)
        width, height = image.size
        depth = None
        if self.depth is not None:
            try:
                depth = read_grey(self.depth, width, height)
            except UserError as error:
                raise UserError(f"{self.location}: {error}") from None
        if _outside([self], [image.size])[0]:
            raise UserError(f"{self.location}: no joint lies in the {width}x{height} px image; K must be of this image")
        return Record(image=image, depth=depth, **self.labels)


def _outside(entries: list["_Entry"], sizes: Sequence[tuple[int, int] | None] = ()) -> np.ndarray:
    """Return the hands (N,) bool none of whose joints lies in their image, of `sizes` (width, height) px.

    Without `sizes`, they are read from the headers of the images. A hand in an image of unknown size is not outside.
    """
    sizes = sizes or [EncodedImage.read_size(entry.image) for entry in entries]
    joints, valid, K = (np.array([e.labels[key] for e in entries]) for key in ("keypoints_3d", "joint_valid", "K"))
    pixels = project(np.where(valid[..., None] > 0, joints, (0, 0, 1)), K)  # (N, 21, 2)
    limits = np.array([size or (np.nan, np.nan) for size in sizes])[:, None]  # (N, 1, 2)
    inside = ((pixels >= 0) & ~(pixels >= limits)).all(-1) & (valid > 0)  # (N, 21)
    return ~inside.any(-1) & np.isfinite(limits).all((1, 2))


def _check_bones(entries: list["_Entry"]) -> None:
    """Raise a UserError if the bones of a hand are much too short or too long, which shows another unit."""
    joints, valid = (np.array([entry.labels[key] for entry in entries]) for key in ("keypoints_3d", "joint_valid"))
    for reason, wrong in joint_reasons(joints, valid).items():
        if wrong.any():
            raise UserError(f"{entries[int(wrong.argmax())].location}: joints_3d: {reason}")


def _file(folder: Path, name: object, key: str) -> str:
    if not isinstance(name, str):
        raise UserError(f"{key} must be a path, got {ascii(name)[:100]}")
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise UserError(f"{key} {path} does not exist")
    return path


def _checked_joints(joints: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Check the `valid` (21,) ones of joints (21, 3) mm, and return the joints with 0 for the others."""
    labelled = joints[valid]
    if not len(labelled):
        raise UserError("no joint is valid; leave this line out")
    if not np.isfinite(labelled).all():
        raise UserError("joints_3d is not finite; set joint_valid to 0 for joints without a label")
    if (labelled[:, 2] <= 0).any():
        raise UserError("a joint is behind the camera (z <= 0); joints_3d is in the OpenCV camera frame, z forward")
    if np.median(labelled[:, 2]) < 10 or len(labelled) > 1 and np.ptp(labelled, axis=0).max() < 1:
        raise UserError("joints_3d must be in millimetres, but seems to be in metres: multiply by 1000")
    return np.where(valid[:, None], joints, 0)
