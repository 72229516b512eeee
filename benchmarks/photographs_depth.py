"""How much a depth image helps to place hands: MediaPipe's networks on the built-in world, with its depth sensor.

`python -m benchmarks.photographs_depth RUN`, where RUN is a run folder of `python -m jaxhand.convert mediapipe`. Every
rendered image is read twice: with K alone, and with K and the sensor's depth image, which has noise and holes. Hands
are found automatically.
"""

import argparse
from pathlib import Path

import numpy as np

import jaxhand
from jaxhand.data.synthetic.dataset import FIRST_INDEX, render_range
from jaxhand.metrics import mpjpe


def main() -> None:
    """Print the camera-space errors of both, mm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    arrays = render_range(0, FIRST_INDEX[arguments.split], arguments.count, size=arguments.size, view="front")
    images, cameras, depths = (list(arrays[key]) for key in ("image", "K", "depth"))
    predict = jaxhand.load(arguments.run)
    by_K, by_depth = predict(images, K=cameras), predict(images, K=cameras, depth=depths)
    rows, first = np.unique(by_K["image"], return_index=True)  # the most certain hand of each
    errors = [mpjpe(found["keypoints_3d"][first], arrays["keypoints_3d"][rows]) for found in (by_K, by_depth)]
    print(f"a hand found in {len(rows)} of {len(images)} images of {arguments.size} px")
    for name, error in zip(("K alone", "with depth"), errors):
        print(f"camera-space MPJPE, {name}: mean {error.mean():.1f} mm, median {np.median(error):.1f} mm")
    print(f"ratio of the means: {errors[1].mean() / errors[0].mean():.3f}")


if __name__ == "__main__":
    main()
