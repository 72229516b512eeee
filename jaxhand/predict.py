"""Read hands in photographs: `python -m jaxhand.predict WORKDIR IMAGE… [--hand left] [--bbox X0 Y0 X1 Y1]`.

Writes the skeleton drawn over every image, and joints.json with pixels and millimetres.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.crop import uncrop
from jaxhand.data.photo import read_image
from jaxhand.data.record import Record
from jaxhand.hand.draw import draw_skeleton, write_png
from jaxhand.hand.skeleton import JOINT_NAMES
from jaxhand.training import runtime
from jaxhand.training.testing import batches_of, load_best, run_test


def main() -> int:
    """Parse the command line, predict, draw and write; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxhand.predict", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="run folder")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="photographs of a hand each")
    parser.add_argument("--hand", choices=("right", "left"), default="right", help="which hand it is (%(default)s)")
    parser.add_argument("--bbox", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"),
                        help="box around the hand in px (default: the whole image is the crop)")
    parser.add_argument("--focal", type=float, help="focal length in px (default: 1.2 times the longer side)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: WORKDIR/predictions)")
    arguments = parser.parse_intermixed_args()
    runtime.use_compilation_cache()
    tester, best = load_best(arguments.workdir)
    records = [_record(path, arguments, best.config.data.crop_scale) for path in arguments.images]
    joints = []

    def collect(batch, predictions):
        for i in np.flatnonzero(batch["valid"]):
            K, right = batch["K"][i], batch["is_right"][i]
            image_K = records[len(joints)].K
            joints.append(uncrop(predictions["keypoints_2d"][i], predictions["keypoints_3d"][i], K, image_K, right))

    run_test(tester, best.params, best.rest, batches_of(records, tester), collect=collect)
    _write(arguments.out or arguments.workdir / "predictions", records, joints)
    return 0


def _record(path: Path, arguments, crop_scale: float) -> Record:
    """A photograph as a record without labels; without a box the crop is the whole image."""
    if arguments.focal is not None and not 0 < arguments.focal < np.inf:
        raise UserError(f"--focal must be positive, in px, got {arguments.focal}")
    if arguments.bbox is not None and not (np.diff(np.reshape(arguments.bbox, (2, 2)), axis=0) > 0).all():
        raise UserError(f"--bbox must be X0 Y0 X1 Y1 with X0 < X1 and Y0 < Y1, got {arguments.bbox}")
    image = read_image(path)
    height, width = image.shape[:2]
    focal = arguments.focal or 1.2 * max(height, width)
    middle, half = np.array([(width - 1) / 2, (height - 1) / 2]), max(height, width) / 2 / crop_scale
    whole = np.concatenate([middle - half, middle + half])
    return Record(
        image=image,
        K=np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]),
        keypoints_3d=np.zeros((21, 3), np.float32),
        joint_valid=np.zeros(21, np.float32),
        hand=arguments.hand,
        bbox=whole if arguments.bbox is None else np.array(arguments.bbox),
        name=str(path),
    )


def _write(folder: Path, records: list[Record], joints: list) -> None:
    """Overlays and one JSON file for all images."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    lines, taken = [], set()
    for record, (pixels, points) in zip(records, joints):
        stem = Path(record.name).stem
        names = itertools.chain([f"{stem}_joints.png"], (f"{stem}_{i}_joints.png" for i in itertools.count(2)))
        overlay = folder / next(name for name in names if name not in taken)  # photographs of one name in many folders
        taken.add(overlay.name)
        scale = max(1, 512 // max(record.image.shape[:2]))
        write_png(overlay, draw_skeleton(record.image, pixels, scale=scale))
        lines.append({
            "image": record.name,
            "overlay": overlay.name,
            "hand": record.hand,
            "K": np.asarray(record.K).tolist(),
            "joints_2d": np.round(pixels, 2).tolist(),
            "joints_3d": np.round(points, 2).tolist(),
        })
        print(f"{record.name} -> {overlay}")
    path = folder / "joints.json"
    content = {"joint_names": list(JOINT_NAMES), "units": "joints_3d mm, camera frame; joints_2d px", "hands": lines}
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(f"joints of {len(records)} images -> {path}")


if __name__ == "__main__":
    runtime.run(main)
