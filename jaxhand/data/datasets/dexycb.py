"""DexYCB in the layout of its toolkit: right and left hands with objects, 640x480, eight cameras, with depth.

https://dex-ycb.github.io. Joints are in metres, in the OpenCV frame and our order; they are all -1 in a frame without a
hand. Frames have the toolkit's order (sequence, then camera, then frame), and so have the ids in a result file. Labels
are those of the upright image: an image is turned by its EXIF orientation when it is read.
"""

import concurrent.futures
from pathlib import Path

import numpy as np

from jaxhand.config import UserError, limits, yaml_text
from jaxhand.data.checks import checked_K
from jaxhand.data.datasets import dexycb_json, label_cache
from jaxhand.data.datasets.base import ImageDataset, ManoLabels, UnknownSplit
from jaxhand.data.datasets.dexycb_json import depth_of, read_depth
from jaxhand.data.record import Record
from jaxhand.io import files, numpy_files
from jaxhand.io.files import MALFORMED, one_line

SUBJECTS = (
    *("20200709-subject-01", "20200813-subject-02", "20200820-subject-03", "20200903-subject-04"),
    *("20200908-subject-05", "20200918-subject-06", "20200928-subject-07", "20201002-subject-08"),
    *("20201015-subject-09", "20201022-subject-10"),
)
SERIALS = (
    *("836212060125", "839512060362", "840412060917", "841412060263"),
    *("932122060857", "932122060861", "932122061900", "932122062010"),
)
SEQUENCES = 100  # per subject
SPLITS = {  # (setup, split) → three tests: is a subject, a camera, a sequence in the split? By their numbers
    ("s0", "train"): (lambda s: True, lambda c: True, lambda q: q % 5 != 4),
    ("s0", "val"): (lambda s: s in (0, 1), lambda c: True, lambda q: q % 5 == 4),
    ("s0", "test"): (lambda s: s not in (0, 1), lambda c: True, lambda q: q % 5 == 4),
    ("s1", "train"): (lambda s: s not in (6, 7, 8), lambda c: True, lambda q: True),
    ("s1", "val"): (lambda s: s == 6, lambda c: True, lambda q: True),
    ("s1", "test"): (lambda s: s in (7, 8), lambda c: True, lambda q: True),
    ("s2", "train"): (lambda s: True, lambda c: c < 6, lambda q: True),
    ("s2", "val"): (lambda s: True, lambda c: c == 6, lambda q: True),
    ("s2", "test"): (lambda s: True, lambda c: c == 7, lambda q: True),
    ("s3", "train"): (lambda s: True, lambda c: True, lambda q: q // 5 not in (3, 7, 11, 15, 19)),
    ("s3", "val"): (lambda s: True, lambda c: True, lambda q: q // 5 in (3, 19)),
    ("s3", "test"): (lambda s: True, lambda c: True, lambda q: q // 5 in (7, 11, 15)),
}
_ALL_VALID = np.ones(21, np.float32)


def load(
    path: str | Path,
    split: str,
    *,
    variant: str = "s0",
    without_val: bool = False,
    mano: ManoLabels | None = None,
    depth: bool = True,
    subjects: tuple[str, ...] = SUBJECTS,
    serials: tuple[str, ...] = SERIALS,
    sequences: int = SEQUENCES,
) -> "DexYCB | dexycb_json.DexYCBJson":
    """Read the labels of DexYCB. An image is opened only when its record is read.

    The first call reads the labels of all frames, which takes minutes. Then they are cached, one file per subject.

    Args:
        path: the folder with the subjects and `calibration`; for the variant "json" see `dexycb_json.load`.
        split: "train", "val" or "test".
        variant: the setup: "s0" (default), "s1" (new subjects), "s2" (new cameras), "s3" (new objects); or "json". With
            "-part" after a setup, such as "s0-part", subjects that are not in the folder are left out. The subjects
            that are there must be complete. Such a part has no ids, so it cannot be submitted.
        without_val: no effect, because "train" and "val" share no record; for "json" see `dexycb_json.load`.
        mano: DexYCB's poses are 45 coefficients of MANO's components. So records have a pose only if `hands_mean` and
            `components` are both available. `mano_shape` of a left hand fits the released MANO_LEFT, whose shape
            directions have the x sign of the right hand.
        depth: read the depth images.
        subjects, serials, sequences: subjects, cameras and number of sequences per subject, for a part of the data set.

    Returns:
        A `DexYCB`; for the variant "json" a `dexycb_json.DexYCBJson`.

    Raises:
        UserError: the setup is unknown, or a file or folder is missing, damaged or malformed; the message names it.
    """
    folder, (setup, _, option) = Path(path).expanduser(), (variant or "s0").partition("-")
    if variant == "json":
        return dexycb_json.load(folder, split, without_val=without_val, mano=mano, depth=depth)
    if (setup, split) not in SPLITS or option not in ("", "part"):
        known = "use s0, s1, s2, s3 (or s0-part …) or json, with train, val or test"
        raise UnknownSplit(f"dexycb-{variant or setup}, {split}: unknown; {known}")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give DexYCB's folder, which contains {subjects[0]}, calibration …")
    of_subject, of_camera, of_sequence = SPLITS[setup, split]
    cameras = [c for c in range(len(serials)) if of_camera(c)]
    chosen = [subject for s, subject in enumerate(subjects) if of_subject(s)]
    absent = [subject for subject in chosen if option and not (folder / subject).is_dir()]
    if absent and absent == chosen:
        raise UserError(f"{folder}: dexycb-{variant}, {split} needs one of the subjects {', '.join(chosen)}")
    chosen = [subject for subject in chosen if subject not in absent]
    labels = label_cache.cached_parts(folder, [_subject(folder, subject, serials, sequences) for subject in chosen])
    parts, total = [], 0  # `total` and the ids include frames without a hand
    for subject, part in zip(chosen, labels):
        rows = [part["start"][q] + c * part["frames"][q] + np.arange(part["frames"][q])
                for q in range(sequences) if of_sequence(q) for c in cameras]  # fmt: skip
        rows = np.concatenate([np.zeros(0, np.int64), *rows])
        has_hand = ~(part["joints"][rows] == -1).all((1, 2))  # still in metres, where -1 means no hand
        parts.append((subject, part, rows[has_hand], total + np.flatnonzero(has_hand)))
        total += len(rows)
    if not sum(len(rows) for _, _, rows, _ in parts):
        raise UserError(f"{folder}: no frame of dexycb-{setup}, {split} has a hand; use another split")
    source = DexYCB(folder, parts, serials, depth, mano or ManoLabels())
    if absent:
        source.ids = None
    return source


class DexYCB(ImageDataset):
    """The frames of DexYCB with a hand, as records.

    Attributes:
        ids: (N,) the frames' numbers in the toolkit; None if subjects are left out.
    """

    def __init__(self, folder: Path, parts: list[tuple], serials: tuple[str, ...], depth: bool, mano: ManoLabels):
        self._folder, self._parts, self._serials, self._depth = folder, parts, serials, depth
        self._mano = mano
        self._ends = np.cumsum([len(rows) for _, _, rows, _ in parts])
        self._cameras = [_intrinsics(folder / f"calibration/intrinsics/{serial}_640x480.yml") for serial in serials]
        self.ids: np.ndarray | None = np.concatenate([ids for _, _, _, ids in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""
        return self._folder / self.read_annotation(i).name

    def depth(self, i: int) -> np.ndarray | None:
        """Return the depth image (H, W) of record i in mm, 0 where unknown; None if depth images are not read."""
        return read_depth(depth_of(self.file(i)), self.read_annotation(i).name) if self._depth else None

    def read_annotation(self, i: int) -> Record:
        """Return record i without image and depth."""
        i = range(len(self))[i]
        p = int(np.searchsorted(self._ends, i, side="right"))
        subject, part, rows, _ = self._parts[p]
        row = int(rows[i - self._ends[p]])  # a negative index, from the end of `rows`
        q = int(np.searchsorted(part["start"], row, side="right")) - 1
        c, f = divmod(row - int(part["start"][q]), int(part["frames"][q]))
        hand = str(part["side"][q], "ascii")
        return Record(
            image=None,
            K=self._cameras[c],
            keypoints_3d=part["joints"][row] * 1000,
            joint_valid=_ALL_VALID,
            hand=hand,
            mano_pose=self._pose(part["pose"][row], hand),
            mano_shape=part["betas"][q],
            name=f"{subject}/{str(part['name'][q], 'utf-8')}/{self._serials[c]}/color_{f:06d}.jpg",
        )

    def encoded(self, i: int) -> tuple[bytes, bytes | None]:
        """Return the bytes of the image file and of the depth file of record i."""
        file = self.file(i)
        return files.read_bytes(file), files.read_bytes(depth_of(file)) if self._depth else None

    def _pose(self, pose: np.ndarray, hand: str) -> np.ndarray | None:
        """Convert 3 angles and 45 coefficients (48,) to absolute axis-angles (48,); None without MANO's arrays."""
        mean, components = self._mano.mean_of(hand), self._mano.components_of(hand)
        if mean is None or components is None or not pose.any():  # all 0: no MANO fit
            return None
        return np.concatenate([pose[:3], pose[3:] @ components + mean]).astype(np.float32)


def _subject(
    folder: Path, subject: str, serials: tuple[str, ...], sequences: int
) -> tuple[list[Path], label_cache.Builder]:
    """Return the files that the labels of a subject depend on, and the function that reads these labels."""
    home = folder / subject
    if not home.is_dir():
        part = f"read those that are there: dexycb-s0-part:{folder}"
        raise UserError(f"{home}: no such folder; download the missing subject, or {part}")
    names = sorted(entry.name for entry in home.iterdir() if entry.is_dir())
    if len(names) != sequences:
        raise UserError(f"{home}: contains {len(names)} sequences, not {sequences}; download the subject again")
    sources = [home / name / place for name in names for place in ("meta.yml", *serials)]
    return sources, lambda: _read(folder, home, names, serials)


def _read(folder: Path, home: Path, names: list[str], serials: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read all labels of a subject: one row per frame, ordered by sequence, then camera, then frame."""
    files, frames, sides, betas = [], [], [], []
    for name in names:
        file = home / name / "meta.yml"
        meta = _yaml(file, ("num_frames", "mano_sides", "mano_calib"))
        try:
            [side], [calibration], count = meta["mano_sides"], meta["mano_calib"], meta["num_frames"]
            sides.append({"right": b"right", "left": b"left"}[side])
            frames.append(range(limits.FRAMES)[count])
            file = folder / f"calibration/mano_{calibration}/mano.yml"
            betas.append(np.reshape(np.float32(_yaml(file, ("betas",))["betas"]), 10))
        except UserError:
            raise
        except MALFORMED as error:
            raise UserError(f"{file}: malformed ({one_line(repr(error))}); download the file again") from None
        files += [home / name / c / f"labels_{f:06d}.npz" for c in serials for f in range(frames[-1])]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: {len(missing)} of {len(files)} files are missing; download the subject again")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:  # for slow disks
        labels = list(pool.map(_labels, files))
    return {
        "name": np.array([name.encode() for name in names]),
        "frames": np.array(frames),
        "start": np.cumsum(np.array(frames) * len(serials)) - np.array(frames) * len(serials),  # first rows
        "side": np.array(sides),
        "betas": np.stack(betas),
        "joints": np.stack([joints for joints, _ in labels]),  # (N, 21, 3) m
        "pose": np.stack([pose for _, pose in labels]),  # (N, 48)
    }


def _labels(file: Path) -> tuple[np.ndarray, np.ndarray]:
    content = numpy_files.read_npz(file, ("joint_3d", "pose_m"), fault="damaged file {} ({}); download it again")
    try:
        joints, pose = (np.asarray(content[key], np.float32) for key in ("joint_3d", "pose_m"))
    except MALFORMED as error:
        raise UserError(f"{file}: damaged file ({one_line(error)}); download it again") from None
    if joints.shape != (1, 21, 3) or pose.shape != (1, 51) or not np.isfinite(joints).all():
        raise UserError(f"{file}: joint_3d must be 1x21x3 finite numbers and pose_m 1x51; download it again")
    if np.abs(joints).max() > 10:
        raise UserError(f"{file}: joint_3d must be in metres, but has values up to {np.abs(joints).max():.4g}")
    return joints[0], pose[0, :48]


def _intrinsics(file: Path) -> np.ndarray:
    color = _yaml(file, ("color",))["color"]
    try:
        K = np.array([[color["fx"], 0, color["ppx"]], [0, color["fy"], color["ppy"]], [0, 0, 1]], np.float64)
        return checked_K(K)
    except UserError as error:
        raise UserError(f"{file}: color must have fx, fy, ppx and ppy in px ({error}); download it again") from None
    except MALFORMED as error:
        raise UserError(f"{file}: color must have fx, fy, ppx and ppy in px ({one_line(repr(error))})") from None


def _yaml(file: Path, keys: tuple[str, ...]) -> dict:
    try:
        content = yaml_text.typed(yaml_text.parse(files.read_bytes(file).decode(), str(file)))
    except ValueError:
        content = None
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise UserError(f"{file}: must contain {', '.join(keys)}; download the file again")
    return content
