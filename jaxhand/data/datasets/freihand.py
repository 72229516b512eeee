"""FreiHAND v2: right hands, 224x224, metres in the OpenCV frame, and our joint order.

https://lmb.informatik.uni-freiburg.de/projects/freihand. The training set has N annotations. Annotation k has four
images, numbered k + N v for v = 0 to 3: one in front of a green screen, and three with new backgrounds. The evaluation
labels were released later, in FreiHAND_pub_v2_eval. Labels are those of the upright image: an image is turned by its
EXIF orientation when it is read.
"""

from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.checks import check_cameras
from jaxhand.data.datasets import coco, label_cache, splits
from jaxhand.data.datasets.base import ImageDataset, ManoLabels, UnknownSplit
from jaxhand.data.images.encoded import read_image
from jaxhand.data.record import Record

VERSIONS = ("gs", "hom", "sample", "auto")  # backgrounds: green screen, homogenised, sampled, recoloured
ANNOTATIONS = 32560  # number of annotations in the complete training set
_ALL_VALID, _NONE_VALID = np.ones(21, np.float32), np.zeros(21, np.float32)


def load(
    path: str | Path,
    split: str,
    *,
    variant: str = "",
    without_val: bool = False,
    mano: ManoLabels | None = None,
) -> "FreiHAND | coco.CocoSet":
    """Read the labels of FreiHAND. An image is opened only when its record is read.

    Args:
        path: FreiHAND_pub_v2 or, for "test", FreiHAND_pub_v2_eval; or a COCO-style JSON file of one split (only 2D).
        split: "train", "test", or "val". "val" is a part of "train": blocks of neighbouring annotations. The test set
            is labelled if evaluation_xyz.json is in the folder or in FreiHAND_pub_v2_eval next to the folder; otherwise
            no joint is valid.
        variant: one of `VERSIONS`, to read only training images with this background; empty: all four.
        without_val: leave the records of "val" out of "train".
        mano: FreiHAND's poses are offsets from `hands_mean`; without it, records have no pose. The file of the meshes
            has 300 MB and is parsed once, in about a minute.

    Returns:
        A `FreiHAND`; for a JSON file a `coco.CocoSet`.

    Raises:
        UserError: a file of labels is missing or damaged, or the files have different lengths.
    """
    folder = Path(path).expanduser()
    if variant not in ("", *VERSIONS):
        known = f"the backgrounds are {', '.join(VERSIONS)}; freihand reads all"
        raise UnknownSplit(f"freihand-{variant}: unknown; {known}")
    if folder.suffix == ".json":
        return coco.load(folder, split, order="freihand", period=ANNOTATIONS, without_val=without_val)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give FreiHAND's folder, which contains training_K.json …")
    part = "evaluation" if split == "test" else "training"
    labels = _evaluation_labels(folder) if split == "test" else folder
    mano = mano or ManoLabels()
    arrays = {"K": label_cache.numbers(folder / f"{part}_K.json", (3, 3))}
    if labels:
        arrays["xyz"] = _joints(labels / f"{part}_xyz.json")
        if mano.vertices:
            arrays["verts"] = label_cache.numbers(labels / f"{part}_verts.json", (778, 3))
        if mano.hands_mean is not None:
            arrays["mano"] = label_cache.numbers(labels / f"{part}_mano.json", (1, 61))
    check_cameras(arrays["K"], folder / f"{part}_K.json")
    count = len(arrays["K"])
    for name, array in arrays.items():
        if len(array) != count:
            lengths = f"{len(array)} entries, but {part}_K.json has {count}; download both again"
            raise UserError(f"{labels or folder}/{part}_{name}.json: {lengths}")
    kept = splits.keep(split, splits.blocks(np.arange(count), count), folder, without_val)
    versions = (0,) if split == "test" else (VERSIONS.index(variant),) if variant else tuple(range(4))
    return FreiHAND(folder, part, arrays, kept, versions, mano.mean_of("right"))


class FreiHAND(ImageDataset):
    """FreiHAND's records: all selected annotations with the first background, then with the next background."""

    def __init__(
        self, folder: Path, part: str, arrays: dict[str, np.ndarray], kept: np.ndarray, versions: tuple[int, ...],
        mano_mean: np.ndarray | None,
    ):  # fmt: skip
        self._folder, self._part, self._arrays, self._mano_mean = folder, part, arrays, mano_mean
        self._kept, self._versions = kept, versions

    def __len__(self) -> int:
        return len(self._kept) * len(self._versions)

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._folder / self._image(i)

    def mask(self, i: int) -> np.ndarray | None:
        """Return the mask (H, W) of record i, True on the hand; None for the test set, which has no masks."""
        if self._part == "evaluation":
            return None
        return read_image(self._folder / f"training/mask/{self._annotation(i):08d}.jpg")[..., 0] > 127

    def _annotation(self, i: int) -> int:
        return int(self._kept[i % len(self._kept)])

    def _image(self, i: int) -> str:
        version = self._versions[i // len(self._kept)]
        return f"{self._part}/rgb/{self._annotation(i) + len(self._arrays['K']) * version:08d}.jpg"

    def read_annotation(self, i: int) -> Record:
        """Return record i without its image."""
        i = range(len(self))[i]
        k, arrays, name = self._annotation(i), self._arrays, self._image(i)
        labelled, mano = "xyz" in arrays, arrays["mano"][k, 0] if "mano" in arrays else None
        return Record(
            image=None,
            K=arrays["K"][k],
            keypoints_3d=arrays["xyz"][k] * 1000 if labelled else np.zeros((21, 3), np.float32),
            joint_valid=_ALL_VALID if labelled else _NONE_VALID,
            hand="right",
            vertices=arrays["verts"][k] * 1000 if "verts" in arrays else None,
            mano_pose=None if mano is None else np.concatenate([mano[:3], mano[3:48] + np.float32(self._mano_mean)]),
            mano_shape=None if mano is None else mano[48:58],
            name=name,
        )


def _evaluation_labels(folder: Path) -> Path | None:
    """Return the folder with the released evaluation labels; None if there is no such folder."""
    folders = (folder, folder.parent / "FreiHAND_pub_v2_eval")
    return next((each for each in folders if (each / "evaluation_xyz.json").is_file()), None)


def _joints(file: Path) -> np.ndarray:
    """Read joints (N, 21, 3) and check that their unit is metres."""
    xyz = label_cache.numbers(file, (21, 3))
    distance = np.median(xyz[..., 2])
    if not 0.05 < distance < 10:
        raise UserError(f"{file}: joints must be in metres with z forward, but their median z is {distance:.4g}")
    return xyz
