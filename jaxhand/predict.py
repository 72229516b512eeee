"""Predict the hands in images: `jaxhand predict WORKDIR IMAGE...`; `--help` lists the options.

Writes, for each image, a picture with the skeletons and, where the model has a mesh, a picture with the meshes and the
meshes themselves as OBJ (mm, x right, y down, z forward) and GLB (metres, y up), one object per hand. joints.json has
the joints of all hands in px and mm.
"""

import argparse
import collections
import contextlib
import math
import os
import sys
import typing
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.io import console
from jaxhand.training import runtime

if typing.TYPE_CHECKING:
    import numpy as np

    from jaxhand.inference.boxes import HandBoxes

MESH_KINDS = ("obj", "glb")  # those of `hand.mesh_files`, which --help must not import
_EXAMPLES = """examples:
  all hands of photographs, with MediaPipe's networks (`make photographs` brings them):
    jaxhand predict runs/mediapipe *.jpg
  one hand, which fills the photograph:
    jaxhand predict runs/quickstart photo.jpg --hand left
  several hands per photograph, whose boxes are in a file, and a known camera:
    jaxhand predict runs/quickstart *.jpg --boxes hands.jsonl --K 1400 1400 959.5 539.5
  hands that MediaPipe's networks detect, for another model:
    jaxhand predict runs/quickstart *.jpg --detector mediapipe
"""


def main() -> int:
    """Parse the command line, predict and write; returns the exit code, 1 if something was left out."""
    arguments = _parse_arguments()
    # Imported here, so that --help and wrong arguments need no JAX.
    from jaxhand import models
    from jaxhand.inference import loading
    from jaxhand.inference.image_files import LeftOut, predict_files
    from jaxhand.inference.output import PredictionWriter

    paths, find_hands = _images_and_hands(arguments)
    runtime.use_compilation_cache()
    left_out, doubtful, cameras = [], [], collections.Counter()
    with contextlib.ExitStack() as until_first:
        until_first.enter_context(console.patience("Loading and compiling the model; this can take minutes"))
        predictor = loading.load(arguments.workdir)
        if arguments.mesh in MESH_KINDS and not models.find(predictor.model).has_mesh:
            raise UserError(f"--mesh {arguments.mesh}: the model {predictor.model} has no mesh")
        mesh_kinds = {None: MESH_KINDS, "none": ()}.get(arguments.mesh, (arguments.mesh,))
        options = {"K": _matrix(arguments.K), "focal": arguments.focal, "depth_paths": arguments.depth}
        inputs = [*paths, *(arguments.depth or [])]
        with PredictionWriter(arguments.out or arguments.workdir / "predictions", mesh_kinds, inputs) as writer:
            for prediction in predict_files(predictor, paths, find_hands, **options):
                until_first.close()
                if isinstance(prediction, LeftOut):
                    left_out.append(prediction)
                else:
                    writer.add(prediction)
                    cameras[prediction.camera] += 1
                    if prediction.doubt:
                        doubtful.append(f"{prediction.path}: {prediction.doubt}")
    if doubtful:
        print(f"doubtful camera of {len(doubtful)} images; of {doubtful[0]}")
    if cameras["exif"]:
        print(f"the focal length of {cameras['exif']} images is that of their EXIF data")
    if cameras["guess"]:
        print(
            f"the camera of {cameras['guess']} images is not known, so distances are a guess: "
            "set --focal or --K, or give K in the file of --boxes"
        )
    if left_out and not cameras:
        others = f"; and {len(left_out) - 1} more images or hands are left out" if len(left_out) > 1 else ""
        raise UserError(f"{left_out[0].reason}{others}")
    if left_out:
        sys.stdout.flush()
        print(f"{len(left_out)} images or hands are left out:", file=sys.stderr)
        print(*(f"  {each.reason}" for each in left_out), sep="\n", file=sys.stderr)
    return 1 if left_out else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jaxhand predict",
        description="Predict the 3D joints, and the mesh where the model has one, of the hands in images.\n"
        "Writes pictures, mesh files and joints.json (px and mm).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "workdir", type=console.path, metavar="WORKDIR", help="run folder of a trained or converted model"
    )
    parser.add_argument(
        "images",
        type=console.path,
        nargs="*",
        metavar="IMAGE",
        help="image files, or folders of them (default: all images that --boxes names)",
    )
    hands = parser.add_argument_group(
        "where the hands are",
        "At most one of --boxes, --detector and --bbox. Without them, a run of MediaPipe's networks detects the hands; "
        "for other models one hand fills each image.",
    )
    source = hands.add_mutually_exclusive_group()
    source.add_argument(
        "--boxes",
        type=console.path,
        metavar="FILE",
        help='JSON or JSON Lines file with one entry per hand: {"image": path, "bbox": [x0, y0, x1, y1], "hand": '
        '"right" or "left", "K": 3x3}; hand (default: right) and K are optional',
    )
    source.add_argument(
        "--detector",
        metavar="DETECTOR",
        help="mediapipe: its networks in runs/mediapipe; or another folder of `jaxhand convert mediapipe`; or "
        "MODULE:FUNCTION, a Python function that finds the hands in an image, from an installed module or a file in "
        "the current folder. How to write one: python -m pydoc jaxhand.inference.detection",
    )
    source.add_argument(
        "--bbox", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="box of the one hand in each image, px"
    )
    hands.add_argument(
        "--hand",
        choices=("right", "left"),
        help="side of the hand in each image (default: right; with MediaPipe's networks, as they classify it)",
    )
    camera = parser.add_argument_group(
        "camera",
        "Distances in mm are right only for the right focal length. Without these, it is that of a photograph's EXIF "
        "data, or else a guess.",
    ).add_mutually_exclusive_group()
    camera.add_argument(
        "--K", type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"), help="camera matrix of the images, px"
    )
    camera.add_argument(
        "--focal", type=float, metavar="PX", help="focal length only, px; the principal point is the image centre"
    )
    parser.add_argument(
        "--depth",
        type=console.path,
        nargs="+",
        metavar="FILE",
        help="16-bit PNG in mm for each image, in the same order; decides the distance where the model reads depth",
    )
    parser.add_argument(
        "--mesh", choices=(*MESH_KINDS, "none"), help="kind of the mesh files (default: both obj and glb)"
    )
    parser.add_argument("--out", type=console.path, metavar="DIR", help="output folder (default: WORKDIR/predictions)")
    arguments = parser.parse_intermixed_args()
    if arguments.focal is not None and not 0 < arguments.focal < math.inf:
        raise UserError(f"--focal must be positive, in px, got {arguments.focal}")
    if arguments.K is not None and not (all(map(math.isfinite, arguments.K)) and min(arguments.K[:2]) > 0):
        raise UserError(f"--K must be FX FY CX CY in px, with positive FX and FY, got {arguments.K}")
    if arguments.bbox is not None:
        x0, y0, x1, y1 = arguments.bbox
        if not (x0 < x1 and y0 < y1):
            raise UserError(f"--bbox must be X0 Y0 X1 Y1 with X0 < X1 and Y0 < Y1, got {arguments.bbox}")
    if arguments.hand and (arguments.boxes or arguments.detector):
        raise UserError("--hand is for one hand per image; with --boxes or --detector, each hand has its own side")
    return arguments


def _matrix(K: list[float] | None) -> "np.ndarray | None":
    """FX FY CX CY as a camera matrix (3, 3)."""
    import numpy as np

    return None if K is None else np.array([[K[0], 0, K[2]], [0, K[1], K[3]], [0, 0, 1]])


def _images_and_hands(
    arguments: argparse.Namespace,
) -> "tuple[list[Path], typing.Callable[[Path, np.ndarray], HandBoxes]]":
    """The image files, and the function that returns the hands of one of them."""
    import numpy as np

    from jaxhand.inference.boxes import NO_HANDS, HandBoxes, read_boxes
    from jaxhand.inference.detection import load_detector
    from jaxhand.inference.image_files import image_paths

    paths = image_paths(arguments.images)
    if arguments.boxes:
        listed = read_boxes(arguments.boxes)
        paths = paths or [Path(name) for name in listed]
        if listed and not any(os.path.realpath(path) in listed for path in paths):
            raise UserError(f"{arguments.boxes} has no hand of {paths[0]}; it has hands of {next(iter(listed))}")
        find_hands = lambda path, image: listed.get(os.path.realpath(path), NO_HANDS)  # noqa: E731
    elif arguments.detector:
        detect = load_detector(arguments.detector)
        find_hands = lambda path, image: detect(image)  # noqa: E731
    else:
        box = None if arguments.bbox is None else np.array([arguments.bbox])
        hands = HandBoxes(box, arguments.hand)
        find_hands = lambda path, image: hands  # noqa: E731
    if not paths:
        raise UserError("name at least one image, or a file of --boxes that has some")
    if arguments.depth and len(arguments.depth) != len(paths):
        raise UserError(f"--depth must name a file for each of the {len(paths)} images, got {len(arguments.depth)}")
    return paths, find_hands


if __name__ == "__main__":
    runtime.run(main)
