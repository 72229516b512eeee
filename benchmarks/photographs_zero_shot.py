"""What MediaPipe's networks reach on a folder of labelled photographs without any training, fully automatic.

`python -m benchmarks.photographs_zero_shot RUN FOLDER`, where RUN is a run folder of `python -m jaxhand.convert
mediapipe` and FOLDER a data set of the folder layout (train.jsonl, test.jsonl with `image`, `K`, `joints_3d`, `hand`).
Crops come from the palm detector, places from K in closed form; no label is used. A photograph in which no hand is
found counts in the first column alone.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from jaxhand.data.images.encoded import read_image
from jaxhand.hand.camera import project
from jaxhand.inference.mediapipe_pipeline import Pipeline
from jaxhand.metrics import mpjpe, pa_mpjpe

GROUP = 64  # photographs that are held at once


def main() -> None:
    """Print a table with one row per split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--looks", type=int, default=2)
    arguments = parser.parse_args()
    pipeline = Pipeline.load(arguments.run, looks=arguments.looks)
    print("| split | found | wrong side | PA-MPJPE | wrist-relative | camera space | 2D px |")
    print("|---|---|---|---|---|---|---|")
    for split in ("train", "test"):
        labels = [json.loads(line) for line in (arguments.folder / f"{split}.jsonl").read_text().splitlines()]
        rows = []
        for start in range(0, len(labels), GROUP):
            group = labels[start : start + GROUP]
            images = [read_image(arguments.folder / label["image"]) for label in group]
            found = pipeline(images, [np.array(label["K"]) for label in group])
            rows += [(label, hands) for label, hands in zip(group, found) if len(hands["score"])]
        predicted = np.array([hands["keypoints_3d"][0] for _, hands in rows], np.float32)
        truth = np.array([label["joints_3d"] for label, _ in rows], np.float32)
        wrong = sum((hands["right"][0] > 0.5) != (label["hand"] == "right") for label, hands in rows)
        errors = (pa_mpjpe(predicted, truth), mpjpe(predicted, truth, root=0), mpjpe(predicted, truth))
        pixels = project(truth, np.array([label["K"] for label, _ in rows], np.float32))
        apart = np.linalg.norm(np.array([hands["keypoints_2d"][0] for _, hands in rows]) - pixels, axis=-1).mean()
        shown = " | ".join(f"{np.mean(error):.2f}" for error in errors)
        print(f"| {split} | {len(rows)} of {len(labels)} | {wrong} | {shown} | {apart:.2f} |", flush=True)


if __name__ == "__main__":
    main()
