"""Read hands in photographs: `python -m jaxhand.predict WORKDIR IMAGE… [--boxes FILE] [--detector MODULE:FUNCTION]`.

Writes pictures of the skeletons and, where the model has one, the mesh; joints.json with pixels and millimetres; and the
meshes as OBJ (mm, x right, y down, z forward) and GLB (metres, y up), a file an image and an object a hand.
"""

import argparse
import itertools
import json
import os
from pathlib import Path

import numpy as np

from jaxhand import models
from jaxhand.config import UserError
from jaxhand.data.images.depth import read_grey
from jaxhand.data.images.encoded import read_image
from jaxhand.hand import mesh_files
from jaxhand.hand.draw import draw_mesh, draw_skeleton, upscale, write_png
from jaxhand.hand.skeleton import JOINT_NAMES
from jaxhand.inference import boxes
from jaxhand.inference.predictor import Predictor
from jaxhand.training import runtime

AT_ONCE = 16  # images that are in memory together
_JSON = {  # name in joints.json → the predictor's, and digits
    "bbox": ("boxes", 3),
    "K": ("K", 6),
    "joints_2d": ("keypoints_2d", 2),
    "joints_3d": ("keypoints_3d", 2),
    "camera_translation": ("camera_translation", 2),
    "mano_pose": ("mano_pose", 5),
    "mano_shape": ("mano_shape", 5),
}
_UNITS = "joints_3d and camera_translation mm, camera frame (x right, y down, z forward); joints_2d, bbox and K px"


def main() -> int:
    """Parse the command line, predict, draw and write; the exit code."""
    arguments = _arguments()
    listed = boxes.read(arguments.boxes) if arguments.boxes else {}
    images = arguments.images or [Path(name) for name in listed]
    if not images:
        raise UserError("name a photograph, or a file of --boxes that names some")
    if listed and not any(os.path.realpath(image) in listed for image in images):
        raise UserError(f"{arguments.boxes} has no hand of {images[0]}; it has hands of {next(iter(listed))}")
    if arguments.depth and len(arguments.depth) != len(images):
        raise UserError(f"--depth must name a file for each of the {len(images)} images, got {len(arguments.depth)}")
    detect = boxes.detector(arguments.detector) if arguments.detector else None
    runtime.use_compilation_cache()
    predictor = Predictor(arguments.workdir)
    if arguments.mesh not in (None, "none") and not models.find(predictor.config.model.name).has_mesh:
        raise UserError(f"--mesh {arguments.mesh}: the model {predictor.config.model.name} has no mesh")
    output = _Output(arguments.out or arguments.workdir / "predictions", arguments.mesh)
    guessed = 0
    try:
        for start in range(0, len(images), AT_ONCE):
            records, scores, photographs = [], [], []
            for number, path in enumerate(images[start : start + AT_ONCE], start=start):
                image = read_image(path)
                hands = listed.get(os.path.realpath(path), boxes.NONE) if arguments.boxes else None
                hands = detect(image) if detect else hands
                depth = read_grey(arguments.depth[number], *image.shape[1::-1]) if arguments.depth else None
                K = _camera(predictor, image, hands, arguments)
                guessed += K is None
                try:
                    where = (arguments.bbox, arguments.hand) if hands is None else (hands.boxes, hands.sides)
                    found = predictor.records(image, *where, K, depth)
                except UserError as error:
                    raise UserError(f"{path}: {error}") from None
                photographs.append((path, image, slice(len(records), len(records) + len(found))))
                records += found
                scores += hands.scores if hands else [None]
            predictions = predictor.of_records(records) | {"score": np.array(scores, object)}
            for path, image, rows in photographs:
                output.add(path, image, {key: values[rows] for key, values in predictions.items()})
    finally:
        output.finish()
    if guessed:
        print(f"the camera is not known of {guessed} images: distances are a guess; give --focal, --K or K in --boxes")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jaxhand predict", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="run folder")
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="photographs (default: those of --boxes)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--boxes", type=Path, metavar="FILE", help="JSON or JSON Lines of hands: image, bbox, hand, K")
    where.add_argument(
        "--detector", metavar="MODULE:FUNCTION", help="finds the hands of an image: jaxhand.inference.boxes"
    )
    where.add_argument(
        "--bbox",
        type=float,
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="box around the hand in px (default: the whole image is the crop)",
    )
    parser.add_argument("--hand", choices=("right", "left"), help="which hand it is (default: right)")
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--K", type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"), help="camera of the images, px")
    camera.add_argument("--focal", type=float, help="its focal length alone, px (default: what the model imagines)")
    parser.add_argument("--depth", type=Path, nargs="+", metavar="FILE", help="a 16-bit PNG in mm for every image")
    parser.add_argument("--mesh", choices=(*mesh_files.KINDS, "none"), help="files of the mesh (default: obj and glb)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: WORKDIR/predictions)")
    arguments = parser.parse_intermixed_args()
    if arguments.focal is not None and not 0 < arguments.focal < np.inf:
        raise UserError(f"--focal must be positive, in px, got {arguments.focal}")
    if arguments.K is not None and not (np.isfinite(arguments.K).all() and min(arguments.K[:2]) > 0):
        raise UserError(f"--K must be FX FY CX CY in px, with positive FX and FY, got {arguments.K}")
    if arguments.bbox is not None and not (np.diff(np.reshape(arguments.bbox, (2, 2)), axis=0) > 0).all():
        raise UserError(f"--bbox must be X0 Y0 X1 Y1 with X0 < X1 and Y0 < Y1, got {arguments.bbox}")
    if arguments.hand and (arguments.boxes or arguments.detector):
        raise UserError("--hand is for one hand an image; --boxes and --detector say themselves which hand it is")
    return arguments


def _camera(predictor: Predictor, image: np.ndarray, hands: boxes.Hands | None, arguments) -> np.ndarray | None:
    """K (3, 3) of an image, as its boxes or else the command line say, or None."""
    K = None if hands is None else hands.K
    if K is None and arguments.K:
        fx, fy, cx, cy = arguments.K
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    elif K is None and arguments.focal:
        K = predictor.rule.camera(*image.shape[1::-1])
        K[0, 0] = K[1, 1] = arguments.focal
    return K


class _Output:
    """The folder of predictions: pictures and meshes of every image at once, joints.json at the end."""

    def __init__(self, folder: Path, mesh: str | None):
        self.folder, self.hands, self.stems, self.images = folder, [], set(), 0
        self.kinds = mesh_files.KINDS if mesh is None else [mesh] * (mesh != "none")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error

    def add(self, path: Path, image: np.ndarray, found: dict) -> None:
        """Draw and write the hands found in an image."""
        if not np.isfinite(found["keypoints_3d"]).all():
            raise UserError(f"{path}: the predicted joints are not finite; the model's parameters are broken")
        names = itertools.chain([path.stem], (f"{path.stem}_{i}" for i in itertools.count(2)))
        stem = next(name for name in names if name not in self.stems)  # photographs of one name in many folders
        self.stems.add(stem)
        self.images += 1
        if not len(found["is_right"]):
            print(f"{path}: no hand")
            return
        files = {"overlay": f"{stem}_joints.png"}
        scale = max(1, 512 // max(image.shape[:2]))
        drawn = upscale(image, scale)
        for pixels in found["keypoints_2d"]:
            drawn = draw_skeleton(drawn, (pixels + 0.5) * scale - 0.5, scale=1)  # pixel centres stay pixel centres
        write_png(self.folder / files["overlay"], drawn)
        if "vertices" in found:
            files |= {"mesh_overlay": f"{stem}_mesh.png"} | {kind: f"{stem}.{kind}" for kind in self.kinds}
            self._write_meshes(files, image, scale, found)
        for i, right in enumerate(found["is_right"]):
            side, score = ("right" if right else "left"), found["score"][i]
            self.hands.append({"image": str(path), "hand": side} | ({} if score is None else {"score": score}) | files)
            for name, (key, digits) in _JSON.items():
                if key in found:
                    self.hands[-1][name] = np.round(np.float64(found[key][i]), digits).tolist()
        print(f"{path} -> {self.folder / files['overlay']}")

    def _write_meshes(self, files: dict, image: np.ndarray, scale: int, found: dict) -> None:
        count, size = found["vertices"].shape[:2]
        vertices, faces = found["vertices"].reshape(-1, 3), found["faces"] + size * np.arange(count)[:, None, None]
        picture = draw_mesh(image, vertices, faces.reshape(-1, 3), found["K"][0], scale=scale)
        write_png(self.folder / files["mesh_overlay"], picture)
        meshes = {
            f"{'right' if right else 'left'}_{i}": (found["vertices"][i], found["faces"][i])
            for i, right in enumerate(found["is_right"])
        }
        for kind in self.kinds:
            mesh_files.write(self.folder / files[kind], meshes)

    def finish(self) -> None:
        """Write joints.json of all that was added, also where an error ends the command early."""
        if not self.images:
            return
        path = self.folder / "joints.json"
        content = {"joint_names": list(JOINT_NAMES), "units": _UNITS, "hands": self.hands}
        try:
            path.write_text(json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        print(f"{len(self.hands)} hands of {self.images} images -> {path}")


if __name__ == "__main__":
    runtime.run(main)
