"""HaMeR's training tars: ten sets in one format, images and labels together, many of them labelled in 2D only.

https://github.com/geopavlakos/hamer. A sample is an image and a pickle of its hands: pixels, metres about an unknown
origin, a box whose `scale` is its sides / 200, MANO's absolute axis-angles. The tars are not streamed: where everything
is in one is found once, and any record can be read.
"""

import math
import re
import tarfile
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.datasets import hamer_npz, label_cache, splits
from jaxhand.data.datasets.base import EncodedImageSource
from jaxhand.data.datasets.hamer_npz import BOX_UNIT, SHAPES, hand_record
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.images.header import size_from
from jaxhand.data.record import Record
from jaxhand.io import pickles

_IMAGE_ENDINGS = ("jpg", "jpeg", "png")
_SCALARS = ("right", "has_hand_pose", "has_betas")


def load(
    path: str | Path,
    split: str,
    *,
    variant: str = "",
    without_val: bool = False,
    least_confidence: float = 0.3,
    least_keypoints: int = 5,
    most_reprojection_loss: float = 31000.0,
    most_beta: float = 3.0,
    pose_and_shape_together: bool = True,
    zero_shape: bool = False,
):
    """Read the labels of the tars of one set; images are read from the tars with their record.

    The first time all tars are gone through; then their labels are kept as a file a tar. The defaults are HaMeR's own
    filters, but for `zero_shape`.

    Args:
        path: the folder of the tars of one set, such as dataset_tars/freihand-train; for the variant "npz" see
            `hamer_npz.load`.
        split: "train", or "val" (held out of it by blocks of neighbouring samples). The tars have no test set.
        variant: "npz", or empty.
        without_val: leave "val" out of "train".
        least_confidence: 2D keypoints below it do not count.
        least_keypoints: hands with fewer 2D keypoints are left out.
        most_reprojection_loss: hands whose MANO was fitted with a larger one, where it is known, are left out.
        most_beta: shapes that go beyond it do not count.
        pose_and_shape_together: a pose without a shape does not count, nor a shape without a pose.
        zero_shape: hands without a shape have one of zeros, which pulls a model to the mean; HaMeR's recipe does.

    Returns:
        A `HaMeRTars`, or a `hamer_npz.HaMeRNpz`.

    Raises:
        UserError: naming the tar, and the member of it, that is missing, damaged, or would run code.
    """
    folder = Path(path).expanduser()
    if variant == "npz":
        return hamer_npz.load(folder, split, without_val=without_val)
    if variant or split not in ("train", "val"):
        which = f"hamer{variant and '-' + variant}, {split}"
        raise UserError(f"{which}: unknown; the tars are for train and val, and hamer-npz is for the test")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it holds 000000.tar and so on")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        inside = sorted({tar.parent.name for tar in folder.glob("*/*.tar")})
        hint = f"name one of its folders: {', '.join(inside)}" if inside else "it should hold 000000.tar and so on"
        raise UserError(f"{folder}: holds no tar; {hint}")
    parts, numbers, total = [], [], 0
    for tar in tars:
        part = label_cache.cached([tar], lambda tar=tar: _read(tar))
        numbers.append(total + part["sample"])
        total += int(part["sample"][-1]) + 1
        parts.append(part)
    keep = splits.keep(split, splits.blocks(np.concatenate(numbers), total), folder, without_val)
    chosen = np.zeros(sum(map(len, numbers)), bool)
    chosen[keep] = True
    rows = []
    for part, mask in zip(parts, np.split(chosen, np.cumsum([len(n) for n in numbers])[:-1]), strict=True):
        counted = (part["keypoints_2d"][..., 2] >= max(least_confidence, 1e-9)).sum(-1)
        well = ~(part["reprojection_loss"] >= most_reprojection_loss)  # NaN where it is not known
        rows.append(np.flatnonzero(mask & (counted >= least_keypoints) & well))
    if not sum(map(len, rows)):
        raise UserError(f"{folder}: the filters leave no hand of {split}")
    limits = (least_confidence, most_beta, pose_and_shape_together, zero_shape)
    return HaMeRTars(tars, parts, rows, limits)


class HaMeRTars(EncodedImageSource):
    """The hands in HaMeR's tars as records."""

    def __init__(self, tars: list[Path], parts: list[dict], rows: list[np.ndarray], limits: tuple):
        self._tars, self._parts, self._rows, self._limits = tars, parts, rows, limits
        self._ends = np.cumsum([len(r) for r in rows])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read_encoded(self, i: int) -> Record:
        """Record i whose image is an `EncodedImage`."""
        record, content = self.read_annotation(i), self.encoded(i)[0]
        where = f"image {self._tars[self._place(i)[0]].parent / record.name}"
        return Record(
            **vars(record) | {"image": EncodedImage(content, where, exif=False)}
        )  # labels are of the stored image

    def read_annotation(self, i: int) -> Record:
        """Record i without its image."""
        t, row = self._place(i)
        hand = {name: array[row] for name, array in self._parts[t].items()}
        least_confidence, most_beta, together, zero_shape = self._limits
        seen = hand["keypoints_2d"][:, 2] >= max(least_confidence, 1e-9)
        posed, shaped = hand["has_hand_pose"] > 0, hand["has_betas"] > 0 and np.abs(hand["betas"]).max() <= most_beta
        if together:
            posed = shaped = posed and shaped
        shape = hand["betas"] if shaped else np.zeros(10, np.float32) if zero_shape else None
        member = f"{self._tars[t].name}/{str(hand['name'], 'utf-8')}#{hand['number']}"
        sides = hand["scale"] * BOX_UNIT
        return hand_record(hand, sides, hand["size"], seen, hand["hand_pose"] if posed else None, shape, member)

    def encoded(self, i: int) -> tuple[bytes, None]:
        """The image file of record i as it is in the tar; there is no depth."""
        t, row = self._place(i)
        place, size = (int(self._parts[t][key][row]) for key in ("image_at", "image_bytes"))
        try:
            with self._tars[t].open("rb") as tar:
                tar.seek(place)
                return tar.read(size), None
        except OSError as error:
            raise UserError(f"{self._tars[t]}: cannot be read ({error.strerror})") from None

    def _place(self, i: int) -> tuple[int, int]:
        """The tar and the row in it of record i."""
        i = range(len(self))[i]
        t = int(np.searchsorted(self._ends, i, side="right"))
        return t, int(self._rows[t][i - int(self._ends[t])])  # a negative number counts from the end


def _read(tar: Path) -> dict[str, np.ndarray]:
    """The labels of all hands in a tar, and where their images are."""
    columns = {key: [] for key in (*SHAPES, *_SCALARS, "reprojection_loss")}
    places = {key: [] for key in ("sample", "number", "name", "size", "image_at", "image_bytes")}
    with tar.open("rb") as file:
        for sample, members in enumerate(_samples(tar, file)):
            image = next((members[ending] for ending in _IMAGE_ENDINGS if ending in members), None)
            if image is None or "data.pyd" not in members:
                some = next(iter(members.values())).name
                raise UserError(f"{tar}: {some} has no image or no data.pyd beside it; download the tar again")
            size = _at(file, image.offset_data, lambda f: size_from(f.read, image.size))
            if size is None:
                raise UserError(f"{tar}: {image.name} is no JPEG or PNG image; download the tar again")
            labels = members["data.pyd"]
            where = f"{tar}: {labels.name}"
            for number, hand in enumerate(_hands(_at(file, labels.offset_data, lambda f: f.read(labels.size)), where)):
                for key, values in columns.items():
                    values.append(hand[key])
                place = (sample, number, image.name.encode(), size, image.offset_data, image.size)
                for values, value in zip(places.values(), place, strict=True):
                    values.append(value)
    if not places["sample"]:
        raise UserError(f"{tar}: holds no hand")
    if np.median(columns["scale"]) > 20:
        raise UserError(f"{tar}: scale is {np.median(columns['scale']):.4g} at the median; in tars it is pixels / 200")
    joints = np.array(columns["keypoints_3d"], np.float32)
    extent = np.ptp(joints[(joints[..., 3] > 0).all(-1), :, :3], axis=1).max(-1)  # of hands with all their joints
    if len(extent) and np.median(extent) > 1:
        raise UserError(f"{tar}: hands are {np.median(extent):.4g} long in keypoints_3d; in tars they are metres")
    return {key: np.array(values, np.float32) for key, values in columns.items()} | {
        "sample": np.array(places["sample"], np.int32),
        "number": np.array(places["number"], np.int16),
        "name": np.array(places["name"]),
        "size": np.array(places["size"], np.int32),
        "image_at": np.array(places["image_at"], np.int64),
        "image_bytes": np.array(places["image_bytes"], np.int64),
    }


def _samples(tar: Path, file: typing.BinaryIO) -> list[dict[str, tarfile.TarInfo]]:
    """The members of a tar by what stands behind the first dot of their name, a dict a sample."""
    samples = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as content:
            for member in content:
                if member.isfile():
                    folder, _, name = member.name.rpartition("/")
                    key, _, ending = name.partition(".")
                    samples.setdefault((folder, key), {})[ending.lower()] = member
            end = content.offset
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{tar}: cut off or not a tar ({error}); download it again") from None
    if not re.fullmatch(rb"\0{512}", _at(file, end, lambda f: f.read(512))):  # a whole tar ends with zeros
        raise UserError(f"{tar}: cut off or damaged after {len(samples)} samples; download it again")
    return list(samples.values())


def _at(file: typing.BinaryIO, offset: int, read: typing.Callable):
    file.seek(offset)
    return read(file)


def _hands(content: bytes, where: str) -> list[dict]:
    """The hands of a pickle, checked, with every key of the columns."""
    hands = pickles.load(content, where)
    if not isinstance(hands, list):
        raise UserError(f"{where}: must be a list of hands, not {type(hands).__name__}")
    checked = []
    for number, hand in enumerate(hands):
        try:
            row = {key: np.asarray(hand[key], np.float32).reshape(shape) for key, shape in SHAPES.items()}
            row |= {key: float(np.asarray(hand[key]).item()) for key in _SCALARS}
            fitting = (hand.get("extra_info") or {}).get("fitting_loss")
            fitting = {} if fitting is None else fitting.item() if isinstance(fitting, np.ndarray) else fitting
            loss = fitting.get("reprojection_loss")
            row["reprojection_loss"] = math.nan if loss is None else float(np.asarray(loss).item())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: hand {number} is not as it should be ({error!r})") from None
        checked.append(row)
    return checked
