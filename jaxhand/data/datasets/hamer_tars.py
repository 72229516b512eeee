"""HaMeR's training tars: ten data sets in one format, with images and labels; many hands are only labelled in 2D.

https://github.com/geopavlakos/hamer. A sample is an image and a pickle of its hands. A hand has 2D joints in pixels, 3D
joints in metres relative to an unknown origin, a box, and MANO's absolute axis-angles. `scale` is the width and height
of the box / 200. The position of each image in its tar is cached, so that records can be read in any order.
Labels are those of the stored pixels: EXIF orientation is ignored.
"""

import dataclasses
import math
import os
import tarfile
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.datasets import hamer_npz, label_cache, splits
from jaxhand.data.datasets.base import EncodedImageSource, ManoLabels, UnknownSplit
from jaxhand.data.datasets.hamer_npz import BOX_UNIT, SHAPES, bones_are_wrong, hand_reasons, hand_record
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.images.header import read_image_size
from jaxhand.data.label_checks import left_out
from jaxhand.data.record import Record
from jaxhand.io import pickles
from jaxhand.io.files import MALFORMED, one_line

_IMAGE_ENDINGS = ("jpg", "jpeg", "png")
_BLOCK = 512  # bytes; a tar consists of such blocks
_SCALARS = ("right", "has_hand_pose", "has_betas")


def load(
    path: str | Path,
    split: str,
    *,
    variant: str = "",
    without_val: bool = False,
    mano: ManoLabels | None = None,
    least_confidence: float = 0.3,
    least_keypoints: int = 5,
    most_reprojection_loss: float = 31000.0,
    most_beta: float = 3.0,
    pose_and_shape_together: bool = True,
    zero_shape: bool = False,
) -> "HaMeRTars | hamer_npz.HaMeRNpz":
    """Read the labels in the tars of one data set. An image is read from its tar only when its record is read.

    The first call reads all tars; then their labels are cached, one file per tar. The default values are HaMeR's
    filters, except for `zero_shape`.

    Args:
        path: the folder with the tars of one data set, such as dataset_tars/freihand-train; for the variant "npz" see
            `hamer_npz.load`.
        split: "train", or "val", which is a part of "train": blocks of neighbouring samples. The tars have no test set.
        variant: "npz", or empty.
        without_val: leave the records of "val" out of "train".
        mano: not used, because the poses are absolute axis-angles.
        least_confidence: 2D keypoints with a smaller confidence are not used as labels.
        least_keypoints: hands with fewer 2D keypoints are left out.
        most_reprojection_loss: hands whose MANO fit has a larger loss are left out. Hands without this loss are kept.
        most_beta: shapes with a larger coefficient (absolute value) are not used as labels.
        pose_and_shape_together: do not use a pose without a shape as a label, nor a shape without a pose.
        zero_shape: label hands without a shape with zeros, as HaMeR's training does. This pulls a model to the mean.

    Returns:
        A `HaMeRTars`; for the variant "npz" a `hamer_npz.HaMeRNpz`.

    Raises:
        UserError: a tar or a file in it is missing, damaged, or would run code; the message names the file.
    """
    folder = Path(path).expanduser()
    if variant == "npz":
        return hamer_npz.load(folder, split, without_val=without_val)
    if variant or split not in ("train", "val"):
        which = f"hamer{variant and '-' + variant}, {split}"
        raise UnknownSplit(f"{which}: unknown; use hamer for train or val, hamer-npz for test")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of one data set, which contains 000000.tar …")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        inside = sorted({tar.parent.name for tar in folder.glob("*/*.tar")})
        hint = f"give one of its folders: {', '.join(inside)}" if inside else "give the folder with 000000.tar …"
        raise UserError(f"{folder}: contains no tar; {hint}")
    parts = label_cache.cached_parts(folder, (([tar], lambda tar=tar: _read(tar)) for tar in tars))
    numbers, total = [], 0
    for part in parts:
        numbers.append(total + part["sample"])
        total += int(part["sample"][-1]) + 1
    reasons = [hand_reasons(part["center"], part["scale"], part["wrong_bones"]) for part in parts]
    reasons = {reason: np.concatenate([each[reason] for each in reasons]) for reason in reasons[0]}
    wrong, sentences = left_out(reasons, lambda i: f"hand {i} of {folder}")
    keep = splits.keep(split, splits.blocks(np.concatenate(numbers), total), folder, without_val)
    chosen = np.zeros(sum(map(len, numbers)), bool)
    chosen[keep] = True
    if wrong[chosen].all():
        raise UserError(f"{folder}: {sentences[0]}")
    chosen &= ~wrong
    rows = []
    for part, mask in zip(parts, np.split(chosen, np.cumsum([len(n) for n in numbers])[:-1]), strict=True):
        counted = (part["keypoints_2d"][..., 2] >= max(least_confidence, 1e-9)).sum(-1)
        well = ~(part["reprojection_loss"] >= most_reprojection_loss)  # also True if the loss is unknown (NaN)
        rows.append(np.flatnonzero(mask & (counted >= least_keypoints) & well))
    if not sum(map(len, rows)):
        raise UserError(f"{folder}: all hands of {split} are removed by the filters; use more tars")
    filters = _Filters(least_confidence, most_beta, pose_and_shape_together, zero_shape)
    return HaMeRTars(tars, parts, rows, filters, sentences)


class _Filters(typing.NamedTuple):
    """Filters of a hand's labels; see the arguments of `load`."""

    least_confidence: float
    most_beta: float
    pose_and_shape_together: bool
    zero_shape: bool


class HaMeRTars(EncodedImageSource):
    """The hands in HaMeR's tars as records."""

    def __init__(
        self, tars: list[Path], parts: list[dict], rows: list[np.ndarray], filters: _Filters, left_out: list[str]
    ):
        self.left_out = left_out
        self._tars, self._parts, self._rows, self._filters = tars, parts, rows, filters
        self._ends = np.cumsum([len(r) for r in rows])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read_encoded(self, i: int) -> Record:
        """Return record i with its image as an `EncodedImage`."""
        record, content = self.read_annotation(i), self.encoded(i)[0]
        location = f"image {self._tars[self._tar_and_row(i)[0]].parent / record.name}"
        image = EncodedImage(content, location, exif=False)  # the labels are for the image without EXIF orientation
        return dataclasses.replace(record, image=image)

    def read_annotation(self, i: int) -> Record:
        """Return record i without its image."""
        t, row = self._tar_and_row(i)
        hand = {name: array[row] for name, array in self._parts[t].items()}
        filters = self._filters
        labelled = hand["keypoints_2d"][:, 2] >= max(filters.least_confidence, 1e-9)
        posed = hand["has_hand_pose"] > 0
        shaped = hand["has_betas"] > 0 and np.abs(hand["betas"]).max() <= filters.most_beta
        if filters.pose_and_shape_together:
            posed = shaped = posed and shaped
        shape = hand["betas"] if shaped else np.zeros(10, np.float32) if filters.zero_shape else None
        member = f"{self._tars[t].name}/{str(hand['name'], 'utf-8')}#{hand['number']}"
        box_size, pose = hand["scale"] * BOX_UNIT, hand["hand_pose"] if posed else None
        return hand_record(hand, box_size, hand["image_size"], labelled, pose, shape, member)

    def encoded(self, i: int) -> tuple[bytes, None]:
        """Return the bytes of the image file of record i, and None instead of a depth file."""
        t, row = self._tar_and_row(i)
        offset, length = (int(self._parts[t][key][row]) for key in ("image_offset", "image_bytes"))
        try:
            with self._tars[t].open("rb") as tar:
                tar.seek(offset)
                return tar.read(length), None
        except OSError as error:
            raise UserError(f"{self._tars[t]}: cannot be read ({error.strerror})") from None

    def _tar_and_row(self, i: int) -> tuple[int, int]:
        """Return the index of the tar with record i, and the row of the record in the labels of this tar."""
        i = range(len(self))[i]
        t = int(np.searchsorted(self._ends, i, side="right"))
        return t, int(self._rows[t][i - int(self._ends[t])])  # a negative index, from the end of the rows


def _read(tar: Path) -> dict[str, np.ndarray]:
    """Read the labels of all hands in a tar, and the positions of the images in the tar."""
    columns = {key: [] for key in (*SHAPES, *_SCALARS, "reprojection_loss")}
    places = {key: [] for key in ("sample", "number", "name", "image_size", "image_offset", "image_bytes")}
    with tar.open("rb") as file:
        for sample, members in enumerate(_samples(tar, file)):
            image = next((members[ending] for ending in _IMAGE_ENDINGS if ending in members), None)
            if image is None or "data.pyd" not in members:
                some = next(iter(members.values())).name
                raise UserError(f"{tar}: the sample of {some} lacks an image or a data.pyd; download the tar again")
            file.seek(image.offset_data)
            size = read_image_size(file.read, image.size)
            if size is None:
                raise UserError(f"{tar}: {image.name} is no JPEG or PNG image; download the tar again")
            labels = members["data.pyd"]
            file.seek(labels.offset_data)
            for number, hand in enumerate(_hands(file.read(labels.size), f"{tar}: {labels.name}")):
                for key, values in columns.items():
                    values.append(hand[key])
                place = (sample, number, image.name.encode(), size, image.offset_data, image.size)
                for values, value in zip(places.values(), place, strict=True):
                    values.append(value)
    if not places["sample"]:
        raise UserError(f"{tar}: contains no hand; download the tar again")
    if np.median(columns["scale"]) > 20:
        raise UserError(f"{tar}: scale must be pixels / 200, but its median is {np.median(columns['scale']):.4g}")
    joints = np.array(columns["keypoints_3d"], np.float32)
    extent = np.ptp(joints[(joints[..., 3] > 0).all(-1), :, :3], axis=1).max(-1)  # only hands with all joints
    if len(extent) and np.median(extent) > 1:
        raise UserError(f"{tar}: keypoints_3d must be in metres, but hands are {np.median(extent):.4g} long")
    return {key: np.array(values, np.float32) for key, values in columns.items()} | {
        "wrong_bones": bones_are_wrong(joints),
        "sample": np.array(places["sample"], np.int32),
        "number": np.array(places["number"], np.int16),
        "name": np.array(places["name"]),
        "image_size": np.array(places["image_size"], np.int32),
        "image_offset": np.array(places["image_offset"], np.int64),
        "image_bytes": np.array(places["image_bytes"], np.int64),
    }


def _samples(tar: Path, file: typing.BinaryIO) -> list[dict[str, tarfile.TarInfo]]:
    """Return one dict per sample of a tar: file ending (the name after its first dot) → member of the tar.

    Several tars that were joined into one file are all read, one after the other.
    """
    samples, size = [], file.seek(0, os.SEEK_END)
    file.seek(0)
    while file.tell() < size:
        found = {}
        try:
            with tarfile.open(fileobj=file, mode="r:") as content:
                for member in content:
                    if member.isfile():
                        folder, _, name = member.name.rpartition("/")
                        key, _, ending = name.partition(".")
                        found.setdefault((folder, key), {})[ending.lower()] = member
                end = content.offset
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"{tar}: cut off or not a tar ({error}); download it again") from None
        samples += found.values()
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):  # a complete tar ends with zeros
            raise UserError(f"{tar}: cut off or damaged after {len(samples)} samples; download it again")
        while (block := file.read(_BLOCK)) and not any(block):
            pass
        file.seek(-len(block), os.SEEK_CUR)
    return samples


def _hands(content: bytes, location: str) -> list[dict]:
    """Read and check the hands in a pickle: one dict per hand."""
    hands = pickles.load(content, location)
    if not isinstance(hands, list):
        raise UserError(f"{location}: must be a list of hands, got {type(hands).__name__}; download the tar again")
    checked = []
    for number, hand in enumerate(hands):
        try:
            row = {key: np.asarray(hand[key], np.float32).reshape(shape) for key, shape in SHAPES.items()}
            row |= {key: float(np.asarray(hand[key]).item()) for key in _SCALARS}
            fitting = (hand.get("extra_info") or {}).get("fitting_loss")
            fitting = {} if fitting is None else fitting.item() if isinstance(fitting, np.ndarray) else fitting
            loss = fitting.get("reprojection_loss")
            row["reprojection_loss"] = math.nan if loss is None else float(np.asarray(loss).item())
        except MALFORMED as error:
            raise UserError(f"{location}: hand {number} is malformed ({one_line(repr(error))})") from None
        checked.append(row)
    return checked
