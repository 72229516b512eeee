"""DexYCB as COCO-style files, which the code of most papers reads: annotations/DEX_YCB_s0_train_data.json and others.

An annotation has `joints_coord_cam` 21x3, `cam_param`, `hand_type` and `mano_param`. Frames without a hand are left
out. Image ids are those of the toolkit. HandOccNet's files are in metres, KeypointFusion's in millimetres: the median
distance of the joints shows the unit, because hands are 0.3 to 2 m away. Labels are those of the upright image: an
image is turned by its EXIF orientation when it is read.
"""

from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError
from jaxhand.data.datasets import label_cache, splits
from jaxhand.data.datasets.base import ImageDataset, ManoLabels
from jaxhand.data.datasets.json_stream import entries
from jaxhand.data.images.encoded import decode
from jaxhand.data.label_checks import Reasons, joint_reasons, left_out
from jaxhand.data.record import Record
from jaxhand.io import files
from jaxhand.io.files import MALFORMED, one_line

_ALL_VALID = np.ones(21, np.float32)


def load(
    path: str | Path,
    split: str,
    *,
    without_val: bool = False,
    mano: ManoLabels | None = None,
    depth: bool = True,
) -> "DexYCBJson":
    """Read a COCO-style file of DexYCB. The first call is slow; then the labels are cached.

    Args:
        path: the JSON file, or a folder with `annotations/DEX_YCB_s0_train_data.json` and `…_test_data.json`. The
            `file_name` of an image is relative to this folder.
        split: "train", "test", or "val". "val" is a part of "train": complete sequences with all cameras.
        without_val: leave the records of "val" out of "train".
        mano: the axis-angles in these files are offsets from `hands_mean`; without it, records have no pose.
        depth: read the depth images, if they are next to the colour images.

    Raises:
        UserError: the file or an annotation is wrong; the message names the file and the annotation.
    """
    file = Path(path).expanduser()
    if file.suffix != ".json":
        file = file / f"annotations/DEX_YCB_s0_{'test' if split == 'test' else 'train'}_data.json"
    arrays = label_cache.cached([file], lambda: _parse(file))
    wrong, sentences = left_out(_reasons(arrays), lambda i: f"annotation of {arrays['name'][i].decode()} in {file}")
    sequences = [name.rpartition(b"/")[0].rpartition(b"/")[0] for name in arrays["name"].tolist()]
    kept = splits.keep(split, sequences, file, without_val)
    if wrong[kept].all():
        raise UserError(f"{file}: {sentences[0]}")
    return DexYCBJson(file, arrays, kept[~wrong[kept]], depth, mano or ManoLabels(), sentences)


def _reasons(arrays: dict[str, np.ndarray]) -> Reasons:
    """Return the hands (N,) bool that cannot be right, by reason."""
    valid = np.broadcast_to(_ALL_VALID, arrays["joints"].shape[:2])
    focal_lengths = arrays["camera"][:, :2]
    no_camera = ~(np.isfinite(arrays["camera"]).all(-1) & (focal_lengths > 0).all(-1))
    return joint_reasons(arrays["joints"], valid) | {"the focal length must be positive": no_camera}


class DexYCBJson(ImageDataset):
    """The hands of a COCO-style file as records. `ids` (N,) are the frames' numbers in the toolkit."""

    def __init__(
        self, file: Path, arrays: dict[str, np.ndarray], kept: np.ndarray, depth: bool, mano: ManoLabels,
        left_out: list[str],
    ):  # fmt: skip
        self.left_out = left_out
        self._folder = file.parent.parent if file.parent.name == "annotations" else file.parent
        self._arrays, self._kept, self._depth, self._mano = arrays, kept, depth, mano
        self.ids = arrays["id"][kept]

    def __len__(self) -> int:
        return len(self._kept)

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._folder / self._name(i)

    def depth(self, i: int) -> np.ndarray | None:
        """Return the depth image (H, W) of record i in mm, 0 where unknown; None if it has no depth image."""
        file = self._depth_file(i)
        return None if file is None else read_depth(file, self._name(i))

    def read_annotation(self, i: int) -> Record:
        """Return record i without image and depth."""
        a = {name: array[self._kept[i]] for name, array in self._arrays.items()}
        fx, fy, cx, cy = a["camera"].astype(np.float64)
        hand = a["side"].item().decode()
        mean = self._mano.mean_of(hand)
        posed = mean is not None and np.isfinite(a["pose"]).all()
        return Record(
            image=None,
            K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
            keypoints_3d=a["joints"],
            joint_valid=_ALL_VALID,
            hand=hand,
            mano_pose=np.concatenate([a["pose"][:3], a["pose"][3:] + mean]).astype(np.float32) if posed else None,
            mano_shape=a["betas"] if np.isfinite(a["betas"]).all() else None,
            name=self._name(i),
        )

    def encoded(self, i: int) -> tuple[bytes, bytes | None]:
        """Return the bytes of the image file and of the depth file of record i."""
        depth = self._depth_file(i)
        return files.read_bytes(self.file(i)), None if depth is None else files.read_bytes(depth)

    def _name(self, i: int) -> str:
        return self._arrays["name"][self._kept[i]].item().decode()

    def _depth_file(self, i: int) -> Path | None:
        file = depth_of(self.file(i))
        return file if self._depth and file.is_file() else None


def _parse(file: Path) -> dict[str, np.ndarray]:
    names = {}
    for number, image in enumerate(entries(file, "images")):
        name = image.get("file_name", image.get("color_file_name"))
        if not isinstance(name, str) or "id" not in image:
            raise UserError(f"{file}: image {number} has no id or no file_name")
        names[image["id"]] = name.encode()
    kinds = {"id": np.int64, "name": np.bytes_, "side": np.bytes_}
    columns = {name: [] for name in ("id", "name", "side", "joints", "camera", "pose", "betas")}
    for number, annotation in enumerate(entries(file, "annotations")):
        try:
            camera, mano = annotation["cam_param"], annotation.get("mano_param") or {}
            row = {
                "id": annotation["image_id"],
                "name": names[annotation["image_id"]],
                "side": {"right": b"right", "left": b"left"}[annotation["hand_type"]],
                "joints": np.reshape(np.float32(annotation["joints_coord_cam"]), (21, 3)),
                "camera": np.reshape(np.array([*camera["focal"], *camera["princpt"]], np.float32), 4),
                "pose": np.reshape(np.float32(mano.get("pose", [np.nan] * 48)), 48),
                "betas": np.reshape(np.float32(mano.get("shape", [np.nan] * 10)), 10),
            }
        except MALFORMED as error:
            raise UserError(f"{file}: annotation {number} is malformed ({one_line(repr(error))})") from None
        if not np.isfinite(row["joints"]).all():
            raise UserError(f"{file}: annotation {number}: joints_coord_cam is not finite")
        if not (row["joints"] == min(row["joints"][0, 0], 0)).all():  # no hand: all values are -1, in any unit
            for name, value in row.items():
                columns[name].append(value)
    if not columns["id"]:
        raise UserError(f"{file}: contains no annotation of a hand; give another file")
    arrays = {name: np.array(values, kinds.get(name, np.float32)) for name, values in columns.items()}
    distance = np.median(arrays["joints"][..., 2])
    if not (0.1 < distance < 10 or 100 < distance < 10000):
        raise UserError(f"{file}: joints must be in metres or millimetres, but their median z is {distance:.4g}")
    return arrays | {"joints": arrays["joints"] * (1000 if distance < 10 else 1)}


def depth_of(color: Path) -> Path:
    """Return the path of the depth image that belongs to a colour image."""
    return color.with_name(color.stem.replace("color_", "aligned_depth_to_color_") + ".png")


def read_depth(file: Path, name: str) -> np.ndarray:
    """Read the depth image of record `name`: a 16-bit grey PNG in mm.

    Returns:
        (H, W) float32 mm, 0 where unknown.

    Raises:
        UserError: the file is missing or is not a 16-bit grey PNG.
    """
    depth = decode(files.read_bytes(file), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.dtype != np.uint16 or depth.ndim != 2:
        raise UserError(f"{file}: the depth of {name} is not a complete 16-bit grey PNG; download it again")
    return depth.astype(np.float32)
