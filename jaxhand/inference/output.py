"""The output of `predict`: pictures of the skeletons and meshes, mesh files, and joints.json."""

import itertools
import json
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.hand import mesh_files
from jaxhand.hand.draw import draw_mesh, draw_skeleton, upscale, write_png
from jaxhand.hand.skeleton import JOINT_NAMES
from jaxhand.inference.image_files import ImagePrediction

_JSON_ARRAYS = {  # key in joints.json → (key of the predictor's arrays, decimal places)
    "bbox": ("boxes", 3),
    "K": ("K", 6),
    "joints_2d": ("keypoints_2d", 2),
    "joints_3d": ("keypoints_3d", 2),
    "camera_translation": ("camera_translation", 2),
    "mano_pose": ("mano_pose", 5),
    "mano_shape": ("mano_shape", 5),
}
UNITS = "joints_3d and camera_translation mm, camera frame (x right, y down, z forward); joints_2d, bbox and K px"
_PICTURE_SIDE = 512  # px; smaller images are enlarged up to this side


class PredictionWriter:
    """Writes predictions into a folder: pictures and meshes after each image, joints.json at the end.

    Use the writer as a context manager: joints.json is then written even if an error ends the command early.

    Args:
        folder: the output folder; it is created if it does not exist.
        mesh_kinds: kinds of the mesh files, some of `mesh_files.KINDS`.

    Raises:
        UserError: the folder cannot be created.
    """

    def __init__(self, folder: Path, mesh_kinds: tuple[str, ...] = mesh_files.KINDS):
        self.folder, self.mesh_kinds = folder, mesh_kinds
        self._hands, self._stems, self._num_images = [], set(), 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, *_) -> None:
        self._write_json()

    def add(self, prediction: ImagePrediction) -> None:
        """Write the pictures and meshes of one image, and keep its hands for joints.json.

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
        if not len(hands["is_right"]):
            print(f"{path}: no hand")
            return
        files = {"overlay": f"{stem}_joints.png"}
        scale = max(1, _PICTURE_SIDE // max(image.shape[:2]))
        picture = upscale(image, scale)
        for pixels in hands["keypoints_2d"]:
            picture = draw_skeleton(picture, (pixels + 0.5) * scale - 0.5, scale=1)  # keeps pixel centres at integers
        write_png(self.folder / files["overlay"], picture)
        if "vertices" in hands:
            files |= {"mesh_overlay": f"{stem}_mesh.png"} | {kind: f"{stem}.{kind}" for kind in self.mesh_kinds}
            self._write_meshes(files, image, scale, hands)
        self._hands += [_json_entry(path, hands, row, files) for row in range(len(hands["is_right"]))]
        print(f"{path} -> {self.folder / files['overlay']}")

    def _new_stem(self, path: Path) -> str:
        """Return a new stem for the output files. If an earlier image has the same name, a number is appended."""
        candidates = itertools.chain([path.stem], (f"{path.stem}_{number}" for number in itertools.count(2)))
        stem = next(name for name in candidates if name not in self._stems)
        self._stems.add(stem)
        return stem

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

    def _write_json(self) -> None:
        """Write joints.json with all hands that were added."""
        if not self._num_images:
            return
        path = self.folder / "joints.json"
        content = {"joint_names": list(JOINT_NAMES), "units": UNITS, "hands": self._hands}
        try:
            path.write_text(json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        print(f"{len(self._hands)} hands of {self._num_images} images -> {path}")


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
