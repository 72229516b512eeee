"""HO-3D v2 and v3: right hands with objects, 640x480, with depth; metres in the OpenGL frame, MANO's joint order.

https://github.com/shreyashampali/ho3d. Every frame has a pickle; train.txt and evaluation.txt list the frames of the
two splits. The pickles of the evaluation split contain only the wrist and a box. Its labels were released later, in
evaluation_xyz.json. Labels are those of the upright image: an image is turned by its EXIF orientation when it is read.
"""

import concurrent.futures
import os
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.checks import check_cameras
from jaxhand.data.datasets import label_cache, splits
from jaxhand.data.datasets.base import ImageDataset, ManoLabels, UnknownSplit
from jaxhand.data.images.depth import read_two_channels
from jaxhand.data.record import Record
from jaxhand.hand.camera import FROM_OPENGL
from jaxhand.hand.mano_pose import rotate_axis_angle
from jaxhand.hand.skeleton import to_our_order
from jaxhand.io import files, pickles
from jaxhand.io.files import MALFORMED

DEPTH_UNIT = 0.12498664727900177  # depth of one step in the depth images, mm
_SHAPES = {  # key in a pickle → shape; in the evaluation split, handJoints3D is only the wrist (3,)
    "camMat": (3, 3),
    "handJoints3D": (21, 3),
    "handPose": (48,),
    "handBeta": (10,),
    "handBoundingBox": (4,),
}


def load(
    path: str | Path,
    split: str,
    *,
    variant: str = "",
    without_val: bool = False,
    mano: ManoLabels | None = None,
    depth: bool = True,
) -> "HO3D":
    """Read the labels of HO-3D. An image is opened only when its record is read.

    The first call reads all pickles of the split, in half a minute from a local disk; then the labels are cached in one
    file. Training frames without a label are left out. The evaluation split is complete, in the order of
    evaluation.txt.

    Args:
        path: HO3D_v2 or HO3D_v3.
        split: "train", "val", or "test" (the evaluation split). "val" is a part of "train": complete sequences with all
            their cameras. With evaluation_xyz.json in the folder, "test" has all joints; otherwise only the wrist.
        variant: must be empty.
        without_val: leave the records of "val" out of "train".
        mano: if `mano.vertices` is True, evaluation_verts.json is read; training frames have no mesh. HO-3D's poses do
            not need MANO's arrays.
        depth: read the depth images, if they exist.

    Raises:
        UserError: a file is missing or damaged, or its content has another frame, shape or length; the message names
            the file.
    """
    folder, part = Path(path).expanduser(), "evaluation" if split == "test" else "train"
    if variant:
        raise UnknownSplit(f"ho3d-{variant}: unknown; write ho3d:PATH, for any version")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the HO-3D folder, which contains train.txt, train/ABF10/rgb …")
    frames = _frames(folder / f"{part}.txt")
    sequences = sorted({frame.partition("/")[0] for frame in frames})
    sources = [folder / f"{part}.txt", *(folder / part / sequence / "meta" for sequence in sequences)]
    arrays = label_cache.cached(sources, lambda: _read(folder / part, frames))
    if part == "train":
        kept = np.flatnonzero(arrays["joint_valid"].all(-1) & np.isfinite(arrays["camMat"]).all((1, 2)))
        groups = [frames[i].partition("/")[0][:-1] for i in kept]  # ABF10, ABF11: one sequence, two cameras
        kept = kept[splits.keep(split, groups, folder, without_val)]
    else:
        without_K = np.flatnonzero(~np.isfinite(arrays["camMat"]).all((1, 2)))
        if len(without_K):
            raise UserError(f"{folder / part}: frame {frames[without_K[0]]} has no camMat; download the set again")
        kept = np.arange(len(frames))
        arrays = arrays | _evaluation_labels(folder, arrays, mano is not None and mano.vertices)
    check_cameras(arrays["camMat"][kept], f"{folder / part}.txt")
    return HO3D(folder, part, frames, arrays, kept, depth)


class HO3D(ImageDataset):
    """HO-3D's frames as records."""

    def __init__(
        self, folder: Path, part: str, frames: list[str], arrays: dict[str, np.ndarray], kept: np.ndarray, depth: bool
    ):
        self._folder, self._part, self._frames, self._depth = folder, part, frames, depth
        self._arrays, self._kept = arrays, kept
        stems = (f"{folder}/{part}/{frame.replace('/', '/rgb/')}" for frame in frames)
        endings = (ending for stem in stems for ending in (".png", ".jpg") if os.path.isfile(stem + ending))
        self._ending = next(endings, ".jpg")  # .png in version 2, .jpg in version 3

    def __len__(self) -> int:
        return len(self._kept)

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._folder / self._file(i, "rgb")

    def depth(self, i: int) -> np.ndarray | None:
        """Return the depth image (H, W) of record i in mm, 0 where unknown; None if it has no depth image."""
        file = self._folder / self._file(i, "depth")
        if not self._depth or not file.parent.is_dir():
            return None
        return read_two_channels(file, high="green", unit=DEPTH_UNIT)

    def read_annotation(self, i: int) -> Record:
        """Return record i without image and depth."""
        a = {name: array[self._kept[i]] for name, array in self._arrays.items()}
        posed, boxed = np.isfinite(a["handPose"]).all(), np.isfinite(a["handBoundingBox"]).all()
        return Record(
            image=None,
            K=a["camMat"],
            keypoints_3d=a["joints"],
            joint_valid=a["joint_valid"],
            hand="right",
            bbox=a["handBoundingBox"] if boxed else None,
            vertices=a["vertices"] * 1000 * FROM_OPENGL if "vertices" in a else None,
            mano_pose=a["handPose"] if posed else None,
            mano_shape=a["handBeta"] if posed else None,
            name=self._file(i, "rgb"),
        )

    def _file(self, i: int, kind: str) -> str:
        sequence, number = self._frames[self._kept[i]].split("/")
        return f"{self._part}/{sequence}/{kind}/{number}{self._ending if kind == 'rgb' else '.png'}"


def _frames(file: Path) -> list[str]:
    """Read a list of frames: one line per frame, such as ABF10/0000."""
    lines = files.read_bytes(file).decode("latin1").split("\n")
    frames = [line.strip() for line in lines if line.strip()]
    for number, frame in enumerate(frames, start=1):
        if frame.count("/") != 1:
            raise UserError(f"{file}: entry {number} must look like ABF10/0000, got {frame[:40]!r}; download it again")
    if not frames:
        raise UserError(f"{file}: empty; download it again")
    return frames


def _read(folder: Path, frames: list[str]) -> dict[str, np.ndarray]:
    """Read the pickles of all frames as arrays. Labels that a frame does not have are NaN."""
    files = [folder / frame.replace("/", "/meta/") for frame in frames]
    files = [file.with_name(file.name + ".pkl") for file in files]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: {len(missing)} of {len(files)} files are missing; download the set again")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:  # for slow disks
        rows = list(pool.map(_labels, files))
    arrays = {key: np.array([row[key] for row in rows], np.float32) for key in _SHAPES}
    joints = to_our_order(arrays.pop("handJoints3D"), "ho3d") * 1000 * FROM_OPENGL
    valid = np.all(np.isfinite(joints), axis=-1)  # (N, 21)
    return arrays | {"joints": np.where(valid[..., None], joints, 0), "joint_valid": valid.astype(np.float32)}


def _labels(file: Path) -> dict[str, np.ndarray]:
    """Read one pickle; all values get the shape that they have in the training split. Missing labels are NaN."""
    content = pickles.load(file)
    if not isinstance(content, dict) or "camMat" not in content or "handJoints3D" not in content:
        raise UserError(f"{file}: must contain camMat and handJoints3D; download the file again")
    labels = {}
    for key, shape in _SHAPES.items():
        value = content.get(key)
        try:
            value = np.full(shape, np.nan) if value is None else np.array(value, np.float64)
        except MALFORMED:
            value = np.zeros(0)
        if key == "handJoints3D" and value.shape == (3,):  # the evaluation split: only the wrist
            value = np.concatenate([value[None], np.full((20, 3), np.nan)])
        if value.shape != shape:
            raise UserError(f"{file}: {key} must be {'x'.join(map(str, shape))} numbers; download it again")
        labels[key] = value
    if np.isfinite(labels["handPose"]).all():  # MANO rotates about the wrist, so no translation is needed
        labels["handPose"][:3] = rotate_axis_angle(labels["handPose"][:3], np.diag(FROM_OPENGL))
    if labels["handJoints3D"][0, 2] > 0:
        raise UserError(f"{file}: handJoints3D must have z < 0 (metres in the OpenGL frame), but the wrist has z > 0")
    return labels


def _evaluation_labels(folder: Path, arrays: dict[str, np.ndarray], vertices: bool) -> dict[str, np.ndarray]:
    """Read the labels of the evaluation split, if they exist. Their wrists must agree with those in the pickles."""
    labels, xyz, count = {}, folder / "evaluation_xyz.json", len(arrays["joints"])
    if xyz.is_file():
        joints = to_our_order(_numbers(xyz, (21, 3), count), "ho3d") * 1000 * FROM_OPENGL
        apart = np.median(np.linalg.norm(joints[:, 0] - arrays["joints"][:, 0], axis=-1))
        if apart > 10:
            other = f"its wrists are {apart:.0f} mm from those in evaluation/*/meta"
            raise UserError(f"{xyz}: {other}; use the file of the same HO-3D version")
        labels = {"joints": joints, "joint_valid": np.ones((count, 21), np.float32)}
    if vertices and (folder / "evaluation_verts.json").is_file():
        labels["vertices"] = _numbers(folder / "evaluation_verts.json", (778, 3), count)
    return labels


def _numbers(file: Path, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Read an array (count, *shape) from a JSON file, and check its length."""
    values = label_cache.numbers(file, shape)
    if len(values) != count:
        lengths = f"{len(values)} entries, but evaluation.txt has {count}"
        raise UserError(f"{file}: {lengths}; both files must be from one version of HO-3D")
    return values
