"""Exported networks next to the run they come from: size, difference, time to load, and speed in turn.

`python -m benchmarks.export RUN…` writes each run in both formats and times the files against jitted JAX, on batches of
1 and 8 crops. ONNX Runtime has as many threads as this process has cores; its idle threads do not spin.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jaxhand.exporting import checking, formats, writing
from jaxhand.exporting import network as networks
from jaxhand.exporting.network import Network
from jaxhand.inference.mediapipe_pipeline import has_networks

ROUNDS = 30
BATCHES = (1, 8)


def main() -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    print("| network | format | MB | difference | export, s | load, ms | ms at 1 | ratio | ms at 8 | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for run in arguments.runs:
        for kind, form in formats.FORMATS.items():
            chosen = [networks.hand(run, dtype=form.dtype)]
            if has_networks(run):
                chosen.append(networks.palm_detector(run))
            with tempfile.TemporaryDirectory() as out:
                start = time.perf_counter()
                files = writing.export(run, out, kind, say=lambda line: None)
                seconds = (time.perf_counter() - start) / len(files)
                for network, file in zip(chosen, files):
                    row = [file.stat().st_size / 1e6, *measured(network, file, form), seconds]
                    print(line(network, kind, *row), flush=True)


def measured(network: Network, file: Path, form: formats.Format) -> tuple[str, float, list[tuple[float, float]]]:
    """The differences of a file as text, milliseconds to load it, and (ms, ratio of JAX's time) for each batch size."""
    start = time.perf_counter()
    run = form.run(file)
    load = (time.perf_counter() - start) * 1e3
    inputs = checking.batches(network)
    found = checking.by_unit(checking.differences(network.reference, run, inputs, what=file.name))
    speeds = []
    for size in BATCHES:
        batch = {name: np.resize(array, (size, *array.shape[1:])) for name, array in inputs[1].items()}
        sides = (lambda b=batch: run(b), lambda b=batch: jax.device_get(network.reference(*b.values())))
        times = [[], []]
        for number in range(ROUNDS + 1):
            for side, taken in zip(sides, times):
                start = time.perf_counter()
                side()
                taken += [time.perf_counter() - start] if number else []  # the first call compiles
        speeds.append((np.median(times[0]) * 1e3, float(np.median(np.divide(*times)))))
    return found, load, speeds


def line(network: Network, kind: str, size: float, found: str, load: float, speeds, seconds: float) -> str:
    """One row of the table."""
    name = network.metadata["model"]
    columns = [f"{size:.2f}", found, f"{seconds:.0f}", f"{load:.0f}"]
    cells = [name, kind, *columns, *(f"{ms:.1f} | {ratio:.2f}" for ms, ratio in speeds)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
