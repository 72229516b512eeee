"""What MediaPipe's networks reach on a folder of labelled photographs without any training, fully automatic.

`python -m benchmarks.photographs_zero_shot RUN FOLDER`, where RUN is a run folder of `python -m jaxhand.convert
mediapipe` and FOLDER a data set of the folder layout (train.jsonl, test.jsonl with `image`, `K`, `joints_3d`, `hand`).
Photographs go through `jaxhand.load(RUN)`: crops come from the palm detector, places from K in closed form; no label is
used. With --boxes the boxes and sides of the labels are given. A photograph in which no hand is found counts in the
first column alone.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import jaxhand
from jaxhand.hand.camera import project
from jaxhand.metrics import mpjpe, pa_mpjpe

GROUP = 64  # photographs that are held at once


def main() -> None:
    """Print a table with one row per split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--boxes", action="store_true", help="give the boxes of the labels")
    arguments = parser.parse_args()
    predict = jaxhand.load(arguments.run)
    print("| split | found | wrong side | PA-MPJPE | wrist-relative | camera space | 2D px |")
    print("|---|---|---|---|---|---|---|")
    for split in ("train", "test"):
        labels = [json.loads(line) for line in (arguments.folder / f"{split}.jsonl").read_text().splitlines()]
        truth, K = (np.array([label[key] for label in labels], np.float32) for key in ("joints_3d", "K"))
        pixels = project(truth, K)
        rows, found = [], {"keypoints_3d": [], "keypoints_2d": [], "is_right": []}
        for start in range(0, len(labels), GROUP):
            group = range(start, min(start + GROUP, len(labels)))
            paths = [arguments.folder / labels[i]["image"] for i in group]
            boxes = [np.concatenate([pixels[i].min(0), pixels[i].max(0)]) for i in group] if arguments.boxes else None
            hands = predict(paths, boxes, K=[labels[i]["K"] for i in group])
            images, first = np.unique(hands["image"], return_index=True)  # the most certain hand of each
            rows += (start + images).tolist()
            for key, values in found.items():
                values.append(hands[key][first])
        joints, joints_2d, right = (np.concatenate(values) for values in found.values())
        wrong = sum(is_right != (labels[i]["hand"] == "right") for i, is_right in zip(rows, right))
        errors = (pa_mpjpe(joints, truth[rows]), mpjpe(joints, truth[rows], root=0), mpjpe(joints, truth[rows]))
        shown = " | ".join(f"{np.mean(error):.2f}" for error in errors)
        apart = np.linalg.norm(joints_2d - pixels[rows], axis=-1).mean()
        print(f"| {split} | {len(rows)} of {len(labels)} | {wrong} | {shown} | {apart:.2f} |", flush=True)


if __name__ == "__main__":
    main()
