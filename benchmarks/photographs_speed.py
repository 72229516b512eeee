"""Images/s of the whole way from JPEG files to joints in mm, with the networks in JAX and through LiteRT, in turn.

`python -m benchmarks.photographs_speed RUN SOURCE IMAGE...`, where RUN is a run folder of `python -m jaxhand.convert
mediapipe` and SOURCE the folder of an unpacked wheel mediapipe 0.10.21. Both ways read the same files, detect palms,
cut crops and look at each hand twice; LiteRT (`pip install ai-edge-litert`) has as many threads as there are cores.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

import jaxhand
from jaxhand.interop.mediapipe_weights import HAND, MODULES, PALM
from jaxhand.models.mediapipe import HandReading
from jaxhand.models.palm_detector import POINTS, Palms, anchors


def main() -> None:
    """Check that both find the same joints, and time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--group", type=int, default=16, help="images in one call")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ways = {"JAX": jaxhand.load(arguments.run), "LiteRT": jaxhand.load(arguments.run)}
    pipeline = ways["LiteRT"].pipeline
    pipeline._palm, pipeline._hand = LiteRT(arguments.source, PALM), LiteRT(arguments.source, HAND)
    starts = range(0, len(arguments.images), arguments.group)
    groups = [arguments.images[start : start + arguments.group] for start in starts]
    ours, theirs = ([predict(group) for group in groups] for predict in ways.values())  # compiles
    apart = [np.abs(one["keypoints_2d"] - other["keypoints_2d"]).max(initial=0) for one, other in zip(ours, theirs)]
    hands = sum(len(found["image"]) for found in ours)
    print(f"{hands} hands in {len(arguments.images)} images, at most {max(apart):.2f} px apart", flush=True)
    rates = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, predict in ways.items():
            begin = time.perf_counter()
            for group in groups:
                predict(group)
            rates[name].append(len(arguments.images) / (time.perf_counter() - begin))
    for name, values in rates.items():
        print(f"{name}: {np.median(values):.1f} images/s, best {max(values):.1f}")
    ratios = [one / other for one, other in zip(*rates.values())]
    print(f"ratio: median {np.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


class LiteRT:
    """A network of MediaPipe through LiteRT, image by image, that returns what ours does."""

    def __init__(self, source: Path, kind: str):
        from ai_edge_litert.interpreter import Interpreter

        self.kind, folder = kind, source if (source / "modules").is_dir() else source / "mediapipe"
        file = folder / "modules" / MODULES[kind].format("full")
        self.network = Interpreter(str(file), num_threads=os.cpu_count())
        self.network.allocate_tensors()
        self.input = self.network.get_input_details()[0]["index"]
        outputs = sorted(self.network.get_output_details(), key=lambda output: output["name"])
        self.outputs = [output["index"] for output in outputs]

    def __call__(self, images: np.ndarray):
        """(B, S, S, 3) uint8 → a `HandReading` or `Palms` of NumPy arrays."""
        rows = []
        for image in images:
            self.network.set_tensor(self.input, np.float32(image)[None] / 255)
            self.network.invoke()
            rows.append([self.network.get_tensor(output)[0] for output in self.outputs])
        arrays = [np.stack(values) for values in zip(*rows)]
        if self.kind == HAND:
            landmarks, presence, right, world = arrays
            landmarks = landmarks.reshape(-1, 21, 3)
            world = 1000 * world.reshape(-1, 21, 3)
            return HandReading(landmarks[..., :2] - 0.5, landmarks[..., 2], world, presence[:, 0], right[:, 0])
        numbers, logits = arrays
        numbers = numbers.reshape(len(numbers), -1, POINTS, 2)
        center, half = numbers[:, :, :1] + anchors()[:, None], numbers[:, :, 1:2] / 2
        points = np.concatenate([center - half, center + half, numbers[:, :, 2:] + anchors()[:, None]], 2)
        return Palms(points - 0.5, 1 / (1 + np.exp(-logits[..., 0])))


if __name__ == "__main__":
    main()
