"""Time from the command to the first prediction, with a cold and a warm compilation cache, and of further predictions.

`python -m benchmarks.first_prediction RUN [PHOTOGRAPH]`; without a photograph, it uses a grey image of 640x480 px.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import jaxhand
from jaxhand.data.images.encoded import read_image
from jaxhand.hand.draw import write_png


def main() -> None:
    """Time a cold start and two warm ones, then calls in one process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("photograph", type=Path, nargs="?")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photograph = arguments.photograph or Path(folder) / "grey.png"
        if arguments.photograph is None:
            write_png(photograph, np.full((480, 640, 3), 128, np.uint8))
        for kind in ("cold", "warm", "warm"):
            print(
                f"{kind}: first prediction after {seconds(arguments.run, photograph, Path(folder)):.1f} s", flush=True
            )
        image = read_image(photograph)
    predict = jaxhand.load(arguments.run)
    for hands in (1, 8):
        boxes = np.tile([0.0, 0.0, image.shape[1] - 1, image.shape[0] - 1], (hands, 1))
        predict(image, boxes)
        times = []
        for _ in range(10):
            begin = time.perf_counter()
            predict(image, boxes)
            times.append(time.perf_counter() - begin)
        print(f"{hands} hands in a photograph: {1000 * np.median(times):.1f} ms")


def seconds(run: Path, photograph: Path, folder: Path) -> float:
    """Seconds from the start of `predict`, with a compilation cache in `folder`, until a picture is written."""
    command = [sys.executable, "-m", "jaxhand.predict", run, photograph, "--out", folder / "out"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "PYTHONUNBUFFERED": "1"}
    begin = time.time()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        taken = time.time() - begin
        process.stdout.read()
    if process.returncode or " -> " not in line:
        raise SystemExit(f"predict failed: {line}")
    return taken


if __name__ == "__main__":
    main()
