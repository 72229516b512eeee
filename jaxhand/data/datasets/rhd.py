"""RHD v2: rendered people, 320x320, both hands, with depth; metres in the OpenCV frame, fingertips first.

https://lmb.informatik.uni-freiburg.de/resources/datasets/RenderedHandposeDataset.en.html. Each split has one pickle
with 42 joints per image: first the left hand, then the right hand.
"""

from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.datasets import coco, label_cache, splits
from jaxhand.data.datasets.base import ImageDataset, ManoLabels
from jaxhand.data.images.depth import read_two_channels
from jaxhand.data.record import Record
from jaxhand.hand.skeleton import to_our_order
from jaxhand.io import pickles

HANDS = ("left", "right")  # joints 0-20 and 21-41
DEPTH_UNIT = 5000 / 65535  # mm per step of the depth images: the largest value is 5 m
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
    """Read the labels of RHD; images are opened when their record is read.

    A record is a hand with at least one visible joint. All its joints are labelled, hidden ones too.

    Args:
        path: RHD_published_v2, or a COCO-style JSON file of one split.
        split: "train", "val" (held out of it by blocks of neighbouring images) or "test", the set's evaluation.
        variant: must be empty.
        without_val: leave "val" out of "train".
        mano: not used, the set has joints only.
        depth: read the depth images where there are any.

    Returns:
        An `RHD`; for a JSON file a `coco.CocoSet`.

    Raises:
        UserError: the file of labels is missing, damaged, or has other units or shapes; the error names it.
    """
    folder, part = Path(path).expanduser(), "evaluation" if split == "test" else "training"
    if variant:
        raise UserError(f"rhd-{variant}: unknown; write rhd:PATH")
    if folder.suffix == ".json":
        return coco.load(folder, split, order="rhd", without_val=without_val)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it holds training/color, training/anno_training.pickle and so on")
    file = folder / part / f"anno_{part}.pickle"
    arrays = label_cache.cached([file], lambda: _read(file))
    visible = (arrays["uv_vis"][..., 2] == 1).reshape(-1, 2, 21).any(-1)  # (N, 2)
    images, hands = np.nonzero(visible)
    kept = splits.keep(split, splits.blocks(images, len(visible)), folder, without_val)
    return RHD(folder, part, arrays, images[kept], hands[kept], depth)


class RHD(ImageDataset):
    """RHD's hands as records, in the order of the images, left before right."""

    def __init__(
        self, folder: Path, part: str, arrays: dict[str, np.ndarray], images: np.ndarray, hands: np.ndarray, depth: bool
    ):
        self._folder, self._part, self._arrays, self._depth = folder, part, arrays, depth
        self._images, self._hands = images, hands  # (n,) rows of the arrays, and which of `HANDS`

    def __len__(self) -> int:
        return len(self._images)

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._folder / self._file(i, "color")

    def depth(self, i: int) -> np.ndarray | None:
        """Return the depth image (H, W) of record i in mm, 0 where unknown; None where there is none."""
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
        raise UserError(f"{file}: not a dict of annotations by image number; download it again")
    ids = sorted(content)
    arrays: dict[str, np.ndarray] = {"id": np.array(ids, np.int64)}
    for key, shape in _SHAPES.items():
        try:
            arrays[key] = np.array([content[i][key] for i in ids], np.float32)
        except (KeyError, IndexError, TypeError, ValueError):
            arrays[key] = np.zeros(0)
        if arrays[key].shape != (len(ids), *shape) or not np.isfinite(arrays[key]).all():
            raise UserError(f"{file}: every {key} must be {'x'.join(map(str, shape))} numbers; download it again")
    distance = np.median(arrays["xyz"][..., 2])
    if not 0.05 < distance < 10:
        raise UserError(f"{file}: the joints' median z is {distance:.4g}; RHD's are metres, z forward")
    return arrays
