"""The output of `predict`: pictures of the skeletons and meshes, mesh files, and joints.json."""

import itertools
import json
import math
import os
import time
import typing
from collections.abc import Collection
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json
from jaxhand.evaluation.prediction_files import draft_of
from jaxhand.hand import mesh_files
from jaxhand.hand.draw import draw_mesh, draw_skeleton, upscale, write_png
from jaxhand.hand.skeleton import JOINT_NAMES
from jaxhand.inference.image_files import JOINTS, ImagePrediction

_JSON_ARRAYS = {  # key in joints.json → (key of the predictor's arrays, decimal places)
    "bbox": ("boxes", 3),
    "K": ("K", 6),
    "joints_2d": ("keypoints_2d", 2),
    "joints_3d": ("keypoints_3d", 2),
    "camera_translation": ("camera_translation", 2),
    "surface_joints_3d": ("surface_keypoints_3d", 2),
    "mano_pose": ("mano_pose", 5),
    "mano_shape": ("mano_shape", 5),
}
UNITS = (
    "joints_3d, surface_joints_3d and camera_translation mm, camera frame (x right, y down, z forward); "
    "joints_2d, bbox and K px"
)
_OVERLAY = "_joints.png"  # end of the name of the picture with the skeletons
_MESH_OVERLAY = "_mesh.png"
_FILES = ("overlay", "mesh_overlay", *mesh_files.KINDS)  # keys in joints.json of the files of a hand
_PICTURE_SIDE = 512  # px; smaller images are enlarged up to this side


class PredictionWriter:
    """Writes predictions into a folder: pictures and meshes of each image, and joints.json with all hands.

    The hands of a joints.json that is already in the folder stay in it, except those of images that are predicted
    again. Other files in the folder stay, too: pictures and meshes get another name. joints.json is written as the
    predictions come. Use the writer as a context manager: the file is complete at the end, even if an error ends the
    command early.

    Args:
        folder: the output folder; it is created if it does not exist.
        mesh_kinds: kinds of the mesh files, some of `mesh_files.KINDS`.
        inputs: files that are read, such as the images. They are never overwritten, wherever the folder is.
        fitted: whether meshes are fitted to the joints; the hands then have `"mesh": "fitted"` in joints.json.

    Raises:
        UserError: the folder cannot be created, or has a joints.json that this class did not write.
    """

    def __init__(
        self,
        folder: Path,
        mesh_kinds: tuple[str, ...] = mesh_files.KINDS,
        inputs: Collection[Path] = (),
        *,
        fitted: bool = False,
    ):
        self.folder, self.mesh_kinds, self._fitted = folder, mesh_kinds, fitted
        self._inputs = set(map(os.path.realpath, inputs))
        self._path = folder / JOINTS
        self._num_images = self._num_hands = 0
        self._last_write, self._write_seconds = -math.inf, 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error
        self._hands = {}  # real path of an image → the JSON texts of its hands
        self._stems, self._used = {}, set()  # real path of an image → stem of its files; all stems
        entries = _entries(self._path)
        self._own = {str(entry[key]) for entry in entries for key in _FILES if key in entry}  # names of files
        for entry in entries:
            name = os.path.realpath(entry["image"])
            self._hands.setdefault(name, []).append(_json_text(entry))
            stem = str(entry.get("overlay", "")).removesuffix(_OVERLAY)
            self._stems[name] = stem if self._is_free(stem) else ""
            self._used.add(stem)

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, *_) -> None:
        if not self._num_images:
            return
        self._write_json()
        total = f" (it has {self._total()} hands, with those from before)" if self._total() > self._num_hands else ""
        print(f"{self._num_hands} hands of {self._num_images} images -> {self._path}{total}")

    def add(self, prediction: ImagePrediction) -> None:
        """Write the pictures and meshes of one image, and its hands into joints.json.

        Raises:
            UserError: a joint is not finite, or a file cannot be written.
        """
        path, image, hands = prediction.path, prediction.image, prediction.hands
        if not np.isfinite(hands["keypoints_3d"]).all():
            raise UserError(
                f"{path}: the predicted joints are not finite; the model's parameters are damaged: use another run"
            )
        stem = self._new_stem(path)
        self._num_images += 1
        self._hands.pop(os.path.realpath(path), None)
        if not len(hands["is_right"]):
            print(f"{path}: no hand", flush=True)
            return
        files = {"overlay": f"{stem}{_OVERLAY}"}
        scale = max(1, _PICTURE_SIDE // max(image.shape[:2]))
        picture = upscale(image, scale)
        for pixels in hands["keypoints_2d"]:
            picture = draw_skeleton(picture, (pixels + 0.5) * scale - 0.5, scale=1)  # keeps pixel centres at integers
        write_png(self.folder / files["overlay"], picture)
        if "vertices" in hands:
            files |= {"mesh_overlay": f"{stem}{_MESH_OVERLAY}"} | {kind: f"{stem}.{kind}" for kind in self.mesh_kinds}
            self._write_meshes(files, image, scale, hands)
            files |= {"mesh": "fitted"} if self._fitted else {}
        entries = [_json_entry(path, hands, row, files) for row in range(len(hands["is_right"]))]
        self._hands[os.path.realpath(path)] = [_json_text(entry) for entry in entries]
        self._num_hands += len(entries)
        print(f"{path} -> {self.folder / files['overlay']}", flush=True)
        # The whole file is written each time: seldom enough to take a small part of the time.
        if time.monotonic() - self._last_write > 20 * self._write_seconds:
            self._write_json()

    def _new_stem(self, path: Path) -> str:
        """The stem of an image's output files: as before, or a new one; a number is appended to a stem that is used."""
        name = os.path.realpath(path)
        if not self._stems.get(name):
            candidates = itertools.chain([path.stem], (f"{path.stem}_{number}" for number in itertools.count(2)))
            self._stems[name] = next(stem for stem in candidates if stem not in self._used and self._is_free(stem))
            self._used.add(self._stems[name])
        return self._stems[name]

    def _is_free(self, stem: str) -> bool:
        """Whether files with this stem lie in the output folder, and replace no input and no other program's file."""
        ends = (_OVERLAY, _MESH_OVERLAY, *(f".{kind}" for kind in mesh_files.KINDS))
        files = [self.folder / f"{stem}{end}" for end in ends]
        return (
            os.path.basename(stem) == stem
            and not self._inputs & set(map(os.path.realpath, files))
            and all(file.name in self._own or not os.path.lexists(file) for file in files)
        )

    def _write_meshes(self, files: dict[str, str], image: np.ndarray, scale: int, hands: dict) -> None:
        """Draw the meshes of all hands over the image. Write one mesh file of each kind, with one object per hand."""
        num_hands, num_vertices = hands["vertices"].shape[:2]
        faces = hands["faces"] + num_vertices * np.arange(num_hands)[:, None, None]  # (N, F, 3) into all vertices
        vertices, faces = hands["vertices"].reshape(-1, 3), faces.reshape(-1, 3)
        write_png(self.folder / files["mesh_overlay"], draw_mesh(image, vertices, faces, hands["K"][0], scale=scale))
        meshes = {
            f"{_side(is_right)}_{row}": (hands["vertices"][row], hands["faces"][row])
            for row, is_right in enumerate(hands["is_right"])
        }
        for kind in self.mesh_kinds:
            mesh_files.write(self.folder / files[kind], meshes)

    def _total(self) -> int:
        return sum(map(len, self._hands.values()))

    def _write_json(self) -> None:
        """Write joints.json completely, or not at all."""
        start = time.monotonic()
        head = json.dumps({"joint_names": list(JOINT_NAMES), "units": UNITS}, indent=1)
        hands = ",\n  ".join(text for texts in self._hands.values() for text in texts)
        hands = f"[\n  {hands}\n ]" if hands else "[]"
        with draft_of(self._path) as draft:
            draft.write_text(f'{head[:-2]},\n "hands": {hands}\n}}\n', encoding="utf-8")
        self._last_write = time.monotonic()
        self._write_seconds = self._last_write - start


def _entries(path: Path) -> list[dict]:
    """The hands in a joints.json, or none without the file. Raises UserError for another file."""
    try:
        entries = parse_json(path.read_bytes())["hands"]
        if all(isinstance(entry["image"], str) and "\0" not in entry["image"] for entry in entries):
            return entries
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}: damaged, or not written by `jaxhand predict`; move it away, or choose another --out")


def _json_text(entry: dict) -> str:
    """The JSON of a hand as it stands in joints.json, inside two levels."""
    return json.dumps(entry, indent=1).replace("\n", "\n  ")


def _json_entry(path: Path, hands: dict, row: int, files: dict[str, str]) -> dict:
    """One hand of joints.json. It is also a valid entry of a file of boxes."""
    score = hands["score"][row]
    entry: dict[str, typing.Any] = {"image": str(path), "hand": _side(hands["is_right"][row])}
    entry |= ({} if score is None else {"score": score}) | files
    for name, (key, decimals) in _JSON_ARRAYS.items():
        if key in hands:
            entry[name] = np.round(np.float64(hands[key][row]), decimals).tolist()
    return entry


def _side(is_right: bool) -> str:
    return "right" if is_right else "left"
