"""InterHand2.6M v1.0: single and interacting hands from 80 to 140 cameras. Each hand of an image is one record.

https://mks0601.github.io/InterHand2.6M. Joints are in world coordinates, mm, and every camera has a pose. The right
hand comes before the left hand. The joints of a finger are ordered from tip to base; the wrist is the last joint.
Labels are those of the upright image: an image is turned by its EXIF orientation when it is read.
"""

from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json
from jaxhand.data.checks import check_cameras
from jaxhand.data.datasets import label_cache
from jaxhand.data.datasets.base import ImageDataset, ManoLabels, UnknownSplit
from jaxhand.data.datasets.json_stream import entries
from jaxhand.data.record import Record
from jaxhand.hand.mano_pose import rotate_axis_angle
from jaxhand.hand.skeleton import SIDES, to_our_order
from jaxhand.io.files import MALFORMED, one_line, read_bytes

_ROOT = 20  # index of the wrist among the joints of one hand, in the order of InterHand2.6M
_FIELDS = {"campos": (3,), "camrot": (3, 3), "focal": (2,), "princpt": (2,)}  # fields of each camera and their shapes


def load(
    path: str | Path,
    split: str,
    *,
    variant: str = "",
    without_val: bool = False,
    mano: ManoLabels | None = None,
) -> "InterHand":
    """Read the labels of InterHand2.6M. An image is opened only when its record is read.

    The first call is slow; then the labels are cached. As in the official code, a joint is labelled if three conditions
    are true: it is valid in the annotation of the image, it is valid in the frame, and the wrist of the hand is valid.
    A hand without a valid wrist is left out.

    Args:
        path: the folder with `images` and `annotations`.
        split: "train", "val" or "test"; each has its own files.
        variant: must be empty.
        without_val: no effect, because "train" and "val" share no record.
        mano: the poses in InterHand2.6M_*_MANO_NeuralAnnot.json are offsets from `hands_mean`. Without `hands_mean`,
            this file is not read.

    Raises:
        UserError: a file is missing or damaged, or lacks an entry that another file refers to; the message names the
            file.
    """
    folder = Path(path).expanduser()
    if variant:
        raise UnknownSplit(f"interhand-{variant}: unknown; write interhand:PATH")
    if split not in ("train", "val", "test"):
        raise UnknownSplit(f"interhand, {split}: unknown; use train, val or test")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give InterHand2.6M's folder, which contains annotations …")
    stem = folder / f"annotations/{split}/InterHand2.6M_{split}"
    files = {kind: Path(f"{stem}_{kind}.json") for kind in ("data", "camera", "joint_3d", "MANO_NeuralAnnot")}
    arrays = label_cache.cached([files[kind] for kind in ("data", "camera", "joint_3d")], lambda: _read(files))
    K = np.zeros((len(arrays["focal"]), 3, 3))
    K[:, (0, 1), (0, 1)], K[:, :2, 2], K[:, 2, 2] = arrays["focal"], arrays["princpt"], 1
    check_cameras(K, files["camera"])
    mano = mano or ManoLabels()
    if mano.hands_mean is not None:
        poses = files["MANO_NeuralAnnot"]
        arrays = arrays | label_cache.cached([poses, files["joint_3d"]], lambda: _mano(poses, arrays["frame_name"]))
    return InterHand(folder, split, arrays, mano)


class InterHand(ImageDataset):
    """The hands of InterHand2.6M as records."""

    def __init__(self, folder: Path, split: str, arrays: dict[str, np.ndarray], mano: ManoLabels):
        self._folder, self._split, self._arrays, self._mano = folder, split, arrays, mano

    def __len__(self) -> int:
        return len(self._arrays["image"])

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._folder / self._file(i)

    def _file(self, i: int) -> str:
        name = self._arrays["file_name"][self._arrays["image"][i]]
        return f"images/{self._split}/{name.item().decode()}"

    def read_annotation(self, i: int) -> Record:
        """Return record i without its image."""
        a = self._arrays
        frame, side, valid = int(a["frame"][i]), int(a["side"][i]), a["valid"][i]
        camera = {key: a[key][a["camera"][i]].astype(np.float64) for key in _FIELDS}
        joints = to_our_order((a["world"][frame, side] - camera["campos"]) @ camera["camrot"].T, "interhand")
        valid = to_our_order(valid[:, None], "interhand")[:, 0]
        mean, pose = self._mano.mean_of(SIDES[side]), None
        if mean is not None and np.isfinite(a["pose"][frame, side]).all():
            pose = a["pose"][frame, side]
            pose = np.concatenate([rotate_axis_angle(pose[:3], camera["camrot"]), pose[3:] + mean]).astype(np.float32)
        (fx, fy), (cx, cy) = camera["focal"], camera["princpt"]
        return Record(
            image=None,
            K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
            keypoints_3d=np.where(valid[:, None], joints, 0).astype(np.float32),
            joint_valid=valid.astype(np.float32),
            hand=SIDES[side],
            bbox=a["bbox"][i] if np.isfinite(a["bbox"][i]).all() else None,
            mano_pose=pose,
            mano_shape=None if pose is None else a["betas"][frame, side],
            name=f"{self._file(i)}#{SIDES[side]}",
        )


def _read(files: dict[str, Path]) -> dict[str, np.ndarray]:
    cameras, camera_rows = _cameras(files["camera"])
    frames, frame_rows = _frames(files["joint_3d"])
    images, image_rows = {"file_name": [], "camera": [], "frame": []}, {}
    for number, image in enumerate(entries(files["data"], "images")):
        try:
            capture, camera, frame = str(image["capture"]), str(image["camera"]), str(image["frame_idx"])
            image_rows[image["id"]] = number
            images["file_name"].append(image["file_name"].encode())
            images["camera"].append(camera_rows[capture, camera])
            images["frame"].append(frame_rows[capture, frame])
        except MALFORMED as error:
            missing = f"the entry {one_line(error)} of image {number} is missing in this or another file"
            raise UserError(f"{files['data']}: {missing}; all files must be from one version") from None
    hands = {"image": [], "side": [], "valid": [], "bbox": []}
    for number, annotation in enumerate(entries(files["data"], "annotations")):
        try:
            image, kind = image_rows[annotation["image_id"]], annotation["hand_type"]
            valid = np.reshape(np.array(annotation["joint_valid"], bool), (2, 21))
            x, y, width, height = map(float, annotation["bbox"])
        except MALFORMED as error:
            raise UserError(f"{files['data']}: annotation {number} is malformed ({one_line(repr(error))})") from None
        valid &= frames["valid"][images["frame"][image]]
        for side, hand in enumerate(SIDES):
            if kind in (hand, "interacting") and valid[side, _ROOT]:  # the 3D position needs a wrist
                hands["image"].append(image)
                hands["side"].append(side)
                hands["valid"].append(valid[side])
                unknown = (np.nan,) * 4  # such a box surrounds both hands
                hands["bbox"].append(unknown if kind == "interacting" else (x, y, x + width, y + height))
    if not hands["image"]:
        raise UserError(f"{files['data']}: contains no hand with a valid wrist; download the file again")
    image = np.array(hands["image"], np.int32)
    return cameras | {
        "world": frames["world"],
        "frame_name": frames["name"],
        "file_name": np.array(images["file_name"]),
        "image": image,
        "camera": np.array(images["camera"], np.int32)[image],
        "frame": np.array(images["frame"], np.int32)[image],
        "side": np.array(hands["side"], np.int8),
        "valid": np.array(hands["valid"]),
        "bbox": np.array(hands["bbox"], np.float32),
    }


def _cameras(file: Path) -> tuple[dict, dict]:
    """Return the arrays of `_FIELDS` with one row per camera, and a dict (capture, camera) → row."""
    columns, rows = {key: [] for key in _FIELDS}, {}
    for capture, fields in _object(file).items():
        try:
            for name in fields["campos"]:
                rows[capture, name] = len(rows)
                for key, shape in _FIELDS.items():
                    columns[key].append(np.reshape(np.float32(fields[key][name]), shape))
        except MALFORMED as error:
            raise UserError(f"{file}: capture {capture} is malformed ({one_line(repr(error))})") from None
    return {key: np.array(values) for key, values in columns.items()}, rows


def _frames(file: Path) -> tuple[dict, dict]:
    """Return `world` (N,2,21,3) mm, `valid` (N,2,21) and `name` of N frames, and a dict (capture, frame) → row."""
    world, valid, rows = [], [], {}
    for capture, frames in _object(file).items():
        for name, frame in frames.items():
            try:
                rows[capture, name] = len(rows)
                world.append(np.reshape(np.float32(frame["world_coord"]), (2, 21, 3)))
                valid.append(np.reshape(np.array(frame["joint_valid"], bool), (2, 21)))
            except MALFORMED as error:
                raise UserError(f"{file}: frame {name} of {capture} is malformed ({one_line(repr(error))})") from None
    world, valid = np.array(world), np.array(valid)
    spread = np.ptp(world, axis=2).max(-1)[valid.all(-1)]  # only hands with all joints
    if len(spread) and np.median(spread) < 5:
        raise UserError(f"{file}: world_coord must be in mm, but hands are {np.median(spread):.3g} wide")
    names = np.array([f"{capture}/{name}".encode() for capture, name in rows])
    return {"world": world, "valid": valid, "name": names}, rows


def _mano(file: Path, frame_names: np.ndarray) -> dict[str, np.ndarray]:
    """Read `pose` (N,2,48), as stored, and `betas` (N,2,10) of N frames; NaN for hands without MANO labels."""
    content, count = _object(file), len(frame_names)
    pose, betas = np.full((count, 2, 48), np.nan, np.float32), np.full((count, 2, 10), np.nan, np.float32)
    for row, name in enumerate(frame_names.tolist()):
        capture, frame = name.decode().split("/")
        for side, hand in enumerate(SIDES):
            try:
                mano = content.get(capture, {}).get(frame, {}).get(hand)
                if mano is not None:
                    pose[row, side], betas[row, side] = mano["pose"], mano["shape"]
            except MALFORMED as error:
                raise UserError(f"{file}: frame {frame} of {capture} is malformed ({one_line(repr(error))})") from None
    return {"pose": pose, "betas": betas}


def _object(file: Path) -> dict:
    try:
        content = parse_json(read_bytes(file))
    except ValueError as error:
        raise UserError(f"{file}: not JSON or cut off ({error}); download it again") from None
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise UserError(f"{file}: must be a JSON object with one object per capture; download it again")
    return content
