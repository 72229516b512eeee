"""Predict the hands in images or in a video: `jaxhand predict WORKDIR IMAGE...`; `--help` lists the options.

Writes, for each image, a picture with the skeletons, a picture with the meshes, and the meshes themselves as OBJ (mm,
x right, y down, z forward) and GLB (metres, y up), one object per hand. joints.json has the joints of all hands in px
and mm. For a model without a mesh, a hand model is fitted to the joints. Of a video: annotated.mp4, and the tracks of
its hands in tracks.jsonl and tracks.npz; with --rerun also a recording for the Rerun viewer.
"""

import argparse
import collections
import contextlib
import itertools
import math
import os
import sys
import time
import typing
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.io import console
from jaxhand.training import runtime

if typing.TYPE_CHECKING:
    import numpy as np

    from jaxhand.inference.arguments import ImagePredictor
    from jaxhand.inference.boxes import HandBoxes
    from jaxhand.inference.tracking import Reader

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
  the hands of a video, as smooth tracks (docs/video.md):
    jaxhand predict runs/mediapipe clip.mp4
"""
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".mts")


def main() -> int:
    """Parse the command line, predict and write; returns the exit code, 1 if something was left out."""
    arguments = _parse_arguments()
    if arguments.video is not None or arguments.camera is not None:
        return _predict_video(arguments)
    # Imported here, so that --help and wrong arguments need no JAX.
    from jaxhand.inference import loading
    from jaxhand.inference.fitted_mesh import FittedMeshPredictor
    from jaxhand.inference.image_files import LeftOut, predict_files
    from jaxhand.inference.output import PredictionWriter

    paths, find_hands = _images_and_hands(arguments)
    runtime.use_compilation_cache()
    left_out, doubtful, cameras = [], [], collections.Counter()
    with contextlib.ExitStack() as until_first:
        until_first.enter_context(console.patience("Loading and compiling the model; this can take minutes"))
        fit_mesh = False if arguments.mesh == "none" else arguments.mano or True
        predictor = loading.load(arguments.workdir, fit_mesh=fit_mesh)
        fitted = isinstance(predictor, FittedMeshPredictor)
        if arguments.mano and not fitted:
            raise UserError(f"--mano: the model {predictor.model} has a mesh of its own, so nothing is fitted")
        mesh_kinds = {None: MESH_KINDS, "none": ()}.get(arguments.mesh, (arguments.mesh,))
        options = {"K": _matrix(arguments.K), "focal": arguments.focal, "depth_paths": arguments.depth}
        inputs = [*paths, *(arguments.depth or [])]
        folder = arguments.out or arguments.workdir / "predictions"
        with PredictionWriter(folder, mesh_kinds, inputs, fitted=fitted) as writer:
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
        description="Predict the 3D joints and the meshes of the hands in images.\n"
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
        help="image files, or folders of them (default: all images that --boxes names); or one video",
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
        "--mesh",
        choices=(*MESH_KINDS, "none"),
        help="kind of the mesh files (default: both obj and glb); none: also no fit for a model without a mesh",
    )
    parser.add_argument(
        "--mano",
        type=console.path,
        metavar="FILE",
        help="MANO_RIGHT.pkl; a model without a mesh gets this one, fitted to its joints (default: hand.mano_path of "
        "the run, else the built-in hand)",
    )
    parser.add_argument(
        "--out", type=console.output_path, metavar="DIR", help="output folder (default: WORKDIR/predictions)"
    )
    _add_video_options(parser)
    arguments = parser.parse_intermixed_args()
    _take_video(arguments)
    if arguments.mano is not None and arguments.mesh == "none":
        raise UserError("--mano is the hand model of the mesh, and --mesh none writes no mesh: choose one of them")
    if arguments.focal is not None and not 0 < arguments.focal < math.inf:
        raise UserError(f"--focal must be positive, in px, got {arguments.focal}")
    if arguments.K is not None and not (all(map(math.isfinite, arguments.K)) and min(arguments.K[:2]) > 0):
        raise UserError(f"--K must be FX FY CX CY in px, with positive FX and FY, got {arguments.K}")
    if arguments.bbox is not None:
        x0, y0, x1, y1 = arguments.bbox
        if not (x0 < x1 and y0 < y1):
            raise UserError(f"--bbox must be X0 Y0 X1 Y1 with X0 < X1 and Y0 < Y1, got {arguments.bbox}")
    if arguments.detector == "":
        raise UserError("--detector is empty, as from a variable that is not set; leave it out, or name a detector")
    if arguments.hand and (arguments.boxes or arguments.detector):
        raise UserError("--hand is for one hand per image; with --boxes or --detector, each hand has its own side")
    return arguments


def _add_video_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for videos. Their defaults of None are those of the functions that take them."""
    video = parser.add_argument_group(
        "video",
        "Hands keep their numbers from frame to frame, and are smoothed over time. Ctrl-C ends early, with all files.",
    )
    source = video.add_mutually_exclusive_group()
    source.add_argument("--video", type=console.path, metavar="PATH", help="a video file, or a folder of its frames")
    source.add_argument("--camera", type=int, metavar="N", help="number of a camera, from 0; Ctrl-C ends it")
    video.add_argument("--fps", type=_positive, help="frames per second of a folder of frames (default: 30)")
    video.add_argument("--max-hands", type=int, metavar="N", help="the most hands at a time (default: 2)")
    video.add_argument(
        "--bridge", type=int, metavar="FRAMES", help="the longest gap of a track that is interpolated (default: 15)"
    )
    video.add_argument(
        "--min-cutoff",
        type=_positive,
        metavar="HZ",
        help="One Euro filter: cutoff frequency at rest; lower: less jitter; inf: no smoothing (default: 1.5)",
    )
    video.add_argument(
        "--beta", type=float, help="One Euro filter: Hz per mm/s; higher: less lag in fast motion (default: 0.01)"
    )
    video.add_argument(
        "--rerun", type=console.output_path, metavar="FILE.rrd", help="also write a recording for the Rerun viewer"
    )


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def _take_video(arguments: argparse.Namespace) -> None:
    """Move a video among the images to `arguments.video`, and check what does not go with a video.

    Raises:
        UserError: several videos, or options that do not fit.
    """
    videos = [path for path in arguments.images if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos and arguments.video is None and arguments.camera is None:
        arguments.video = arguments.images.pop(arguments.images.index(videos[0]))
    if arguments.video is None and arguments.camera is None:
        options = ("fps", "max_hands", "bridge", "min_cutoff", "beta", "rerun")
        only = [name for name in options if vars(arguments)[name] is not None]
        if only:
            raise UserError(f"--{only[0].replace('_', '-')} is for videos: name one, or a folder of frames by --video")
        return
    if arguments.images:
        raise UserError(f"one video at a time, and no images with it: also got {arguments.images[0]}")
    unfit = [name for name in ("boxes", "depth", "mesh", "mano") if vars(arguments)[name] is not None]
    if unfit:
        raise UserError(f"--{unfit[0]} is for images, not for a video")
    if arguments.fps is not None and not 0.01 <= arguments.fps <= 1000:
        raise UserError(f"--fps must be between 0.01 and 1000, got {arguments.fps}")
    if arguments.max_hands is not None and not 1 <= arguments.max_hands <= 8:
        raise UserError(f"--max-hands must be 1 to 8, got {arguments.max_hands}")
    if arguments.bridge is not None and not 0 <= arguments.bridge <= 300:
        raise UserError(f"--bridge must be 0 to 300 frames, got {arguments.bridge}")
    if arguments.beta is not None and not 0 <= arguments.beta < math.inf:
        raise UserError(f"--beta must be at least 0, got {arguments.beta}")
    if arguments.rerun is not None and arguments.rerun.suffix != ".rrd":
        raise UserError(f"--rerun must end in .rrd, got {arguments.rerun}")


def _predict_video(arguments: argparse.Namespace) -> int:
    """Track the hands of a video and write them; returns the exit code, 1 if frames are broken."""
    from jaxhand.inference import loading, rerun_file, video
    from jaxhand.inference.arguments import central_camera
    from jaxhand.inference.smoothing import smooth_tracks
    from jaxhand.inference.tracking import Tracker
    from jaxhand.inference.video_files import open_source

    if arguments.rerun:
        rerun_file.check_installed()
    out = arguments.out or arguments.workdir / "predictions"
    if arguments.video and os.path.realpath(arguments.video) == os.path.realpath(out / video.ANNOTATED):
        raise UserError(f"{arguments.video}: would be overwritten by the annotated video; choose another --out")
    source = open_source(arguments.video, arguments.camera, arguments.fps)
    runtime.use_compilation_cache()
    with console.patience("Loading and compiling the model; this can take minutes"):
        predictor = loading.load(arguments.workdir)
        reader = _video_reader(predictor, arguments)
    frames = iter(source)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{arguments.video or f'camera {arguments.camera}'}: no frame can be read")
    height, width = first.image.shape[:2]
    K = _matrix(arguments.K)
    if K is None and arguments.focal is not None:
        K = central_camera(arguments.focal, width, height)
    if K is None:
        print("the camera of the video is not known, so distances are a guess: set --focal or --K")
        K = predictor.crop_rule.camera(width, height)
    given = {name: vars(arguments)[name] for name in ("max_hands", "bridge") if vars(arguments)[name] is not None}
    tracker = Tracker(reader, **given)
    given = {name: vars(arguments)[name] for name in ("min_cutoff", "beta") if vars(arguments)[name] is not None}
    started = time.monotonic()
    with contextlib.ExitStack() as files:
        writer = files.enter_context(video.TrackWriter(out, source, K))
        writers: list[video.TrackWriter | rerun_file.RerunFile] = [writer]
        if arguments.rerun:
            writers.append(files.enter_context(rerun_file.RerunFile(arguments.rerun, (width, height), K)))
        frames = video.until_interrupted(itertools.chain([first], frames), source)
        for frame, hands in smooth_tracks(frames, tracker, K, **given):
            for each in writers:
                each.add(frame, hands)
    print(writer.summary(time.monotonic() - started))
    if arguments.rerun:
        print(f"  -> {arguments.rerun}")
    if source.broken:
        print(f"{source.broken} frames are broken and skipped", file=sys.stderr)
    return 1 if source.broken else 0


def _video_reader(predictor: "ImagePredictor", arguments: argparse.Namespace) -> "Reader":
    """What finds the hands of a frame: MediaPipe's networks follow them; for other models each frame is detected."""
    import numpy as np

    from jaxhand.inference.boxes import HandBoxes
    from jaxhand.inference.detection import load_detector
    from jaxhand.inference.mediapipe_predictor import MediapipePredictor
    from jaxhand.inference.tracking import PipelineReader, PredictorReader

    boxes_known = arguments.detector or arguments.bbox is not None
    if isinstance(predictor, MediapipePredictor) and not boxes_known:
        return PipelineReader(predictor.pipeline)
    if not boxes_known:
        raise UserError(
            f"the model {predictor.model} does not find hands in a video: add --detector mediapipe, or --bbox"
        )
    if arguments.detector:
        return PredictorReader(predictor, load_detector(arguments.detector))
    hands = HandBoxes(np.array([arguments.bbox]), [arguments.hand or "right"])
    return PredictorReader(predictor, lambda image: hands)


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
    from jaxhand.inference.image_files import image_paths, named_first

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
    kept = named_first(paths)
    if len(kept) < len(paths):
        again = paths[next(i for i, number in enumerate([*kept, -1]) if number != i)]
        print(f"{len(paths)} images are named, {len(kept)} of them different: {again} is predicted once")
        paths = [paths[number] for number in kept]
        arguments.depth = arguments.depth and [arguments.depth[number] for number in kept]
    return paths, find_hands


if __name__ == "__main__":
    runtime.run(main)
