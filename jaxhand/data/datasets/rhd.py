"""RHD v2: both hands of rendered people, 320x320, with depth; metres in the OpenCV frame.

https://lmb.informatik.uni-freiburg.de/resources/datasets/RenderedHandposeDataset.en.html. Each split has one pickle
with 42 joints per image: first the left hand, then the right hand. The joints of a finger are ordered from tip to base.
Labels are those of the upright image: an image is turned by its EXIF orientation when it is read.
"""

from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.checks import check_cameras
from jaxhand.data.datasets import coco, label_cache, splits
from jaxhand.data.datasets.base import ImageDataset, ManoLabels, UnknownSplit
from jaxhand.data.images.depth import read_two_channels
from jaxhand.data.record import Record
from jaxhand.hand.skeleton import to_our_order
from jaxhand.io import pickles
from jaxhand.io.files import MALFORMED

HANDS = ("left", "right")  # joints 0-20 and 21-41
DEPTH_UNIT = 5000 / 65535  # depth of one step in the depth images, mm; the largest value is 5 m
_SHAPES = {"K": (3, 3), "uv_vis": (42, 3), "xyz": (42, 3)}
_ALL_VALID = np.ones(21, np.float32)


def load(
    path: str | Path,
    split: str,
    *,
    variant: str = "",
    without_val: bool = False,
    mano: ManoLabels | None = None,
    depth: bool = True,
) -> "RHD | coco.CocoSet":
    """Read the labels of RHD. An image is opened only when its record is read.

    A record is a hand with at least one visible joint. All joints of the hand are labelled, also hidden joints.

    Args:
        path: RHD_published_v2, or a COCO-style JSON file of one split.
        split: "train", "val", or "test" (RHD's evaluation split). "val" is a part of "train": blocks of neighbouring
            images.
        variant: must be empty.
        without_val: leave the records of "val" out of "train".
        mano: not used, because the labels are only joints.
        depth: read the depth images, if they exist.

    Returns:
        An `RHD`; for a JSON file a `coco.CocoSet`.

    Raises:
        UserError: the file of labels is missing, damaged, or has other units or shapes; the message names the file.
    """
    folder, part = Path(path).expanduser(), "evaluation" if split == "test" else "training"
    if variant:
        raise UnknownSplit(f"rhd-{variant}: unknown; write rhd:PATH")
    if folder.suffix == ".json":
        return coco.load(folder, split, order="rhd", without_val=without_val)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give RHD's folder, which contains training/anno_training.pickle …")
    file = folder / part / f"anno_{part}.pickle"
    arrays = label_cache.cached([file], lambda: _read(file))
    check_cameras(arrays["K"], file)
    visible = (arrays["uv_vis"][..., 2] == 1).reshape(-1, 2, 21).any(-1)  # (N, 2)
    images, hands = np.nonzero(visible)
    kept = splits.keep(split, splits.blocks(images, len(visible)), folder, without_val)
    return RHD(folder, part, arrays, images[kept], hands[kept], depth)


class RHD(ImageDataset):
    """RHD's hands as records, in the order of the images; in an image the left hand comes first."""

    def __init__(
        self, folder: Path, part: str, arrays: dict[str, np.ndarray], images: np.ndarray, hands: np.ndarray, depth: bool
    ):
        self._folder, self._part, self._arrays, self._depth = folder, part, arrays, depth
        self._images, self._hands = images, hands  # (n,) rows of the arrays, indices of `HANDS`

    def __len__(self) -> int:
        return len(self._images)

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._folder / self._file(i, "color")

    def depth(self, i: int) -> np.ndarray | None:
        """Return the depth image (H, W) of record i in mm, 0 where unknown; None if it has no depth image."""
        file = self._folder / self._file(i, "depth")
        if not self._depth or not file.parent.is_dir():
            return None
        return read_two_channels(file, high="red", unit=DEPTH_UNIT)

    def read_annotation(self, i: int) -> Record:
        """Return record i without image and depth."""
        row, hand = self._images[i], int(self._hands[i])
        joints = self._arrays["xyz"][row, 21 * hand : 21 * hand + 21]  # (21, 3)
        return Record(
            image=None,
            K=self._arrays["K"][row],
            keypoints_3d=to_our_order(joints, "rhd") * 1000,
            joint_valid=_ALL_VALID,
            hand=HANDS[hand],
            name=f"{self._file(i, 'color')}#{HANDS[hand]}",
        )

    def _file(self, i: int, kind: str) -> str:
        return f"{self._part}/{kind}/{self._arrays['id'][self._images[i]]:05d}.png"


def _read(file: Path) -> dict[str, np.ndarray]:
    content = pickles.load(file)
    if not isinstance(content, dict) or not content or not all(isinstance(i, int) for i in content):
        raise UserError(f"{file}: must be a dict: image number → annotation; download the file again")
    ids = sorted(content)
    arrays: dict[str, np.ndarray] = {"id": np.array(ids, np.int64)}
    for key, shape in _SHAPES.items():
        try:
            arrays[key] = np.array([content[i][key] for i in ids], np.float32)
        except MALFORMED:
            arrays[key] = np.zeros(0)
        if arrays[key].shape != (len(ids), *shape) or not np.isfinite(arrays[key]).all():
            raise UserError(f"{file}: every {key} must be {'x'.join(map(str, shape))} numbers; download it again")
    distance = np.median(arrays["xyz"][..., 2])
    if not 0.05 < distance < 10:
        raise UserError(f"{file}: joints must be in metres with z forward, but their median z is {distance:.4g}")
    return arrays
