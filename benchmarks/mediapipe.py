"""Images/s of MediaPipe's networks in JAX and through LiteRT, in turn in one run.

`python -m benchmarks.mediapipe SOURCE`, where SOURCE is the folder of an unpacked wheel mediapipe 0.10.21. LiteRT
(`pip install ai-edge-litert`) takes the images of a batch one by one, its files are made for one, with as many threads
as there are cores. JAX takes the batch. Every round measures all of them once; medians and best rounds are printed.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxhand.interop import mediapipe_weights
from jaxhand.interop.mediapipe_weights import HAND, MODULES, PALM

SIDES = {HAND: 224, PALM: 192}  # px


def main() -> None:
    """Compile, check that both return the same, and time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["full", "lite"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    ways = {}
    for size in arguments.sizes:
        networks = mediapipe_weights.convert_mediapipe(arguments.source, [f"model.options.size={size}"])
        for kind in (HAND, PALM):
            litert, ours = litert_of(arguments.source, kind, size), jax_of(networks[kind])
            for batch in arguments.batches:
                images = np.random.default_rng(0).random((batch, SIDES[kind], SIDES[kind], 3), np.float32)
                begin = time.perf_counter()
                apart = np.abs(ours(images) - litert(images)).max()
                seconds = time.perf_counter() - begin
                print(f"{kind} {size}, batch {batch}: {apart:.1e} px apart, compiled in {seconds:.1f} s", flush=True)
                ways[kind, size, batch] = {"JAX": (ours, images), "LiteRT": (litert, images)}
    rates = {(key, name): [] for key, both in ways.items() for name in both}
    for _ in range(arguments.rounds):
        for key, both in ways.items():
            for name, (run, images) in both.items():
                rates[key, name].append(rate(run, images))
    print("| network | batch | JAX: median, best | LiteRT: median, best | ratio of medians |\n|---|---|---|---|---|")
    for key in ways:
        kind, size, batch = key
        ours, theirs = rates[key, "JAX"], rates[key, "LiteRT"]
        shown = [f"{np.median(found):.1f}, {max(found):.1f}" for found in (ours, theirs)]
        print(f"| {kind} {size} | {batch} | {shown[0]} | {shown[1]} | {np.median(ours) / np.median(theirs):.2f} |")


def rate(run: Callable, images: np.ndarray) -> float:
    """Images/s over half a second or more."""
    begin, calls = time.perf_counter(), 0
    while time.perf_counter() - begin < 0.5:
        run(images)
        calls += 1
    return calls * len(images) / (time.perf_counter() - begin)


def jax_of(network) -> Callable:
    """The compiled network: images → the numbers of its first output."""
    model, _ = mediapipe_weights.abstract(network.config)
    graphdef, _ = nnx.split(model)
    forward = jax.jit(lambda params, images: nnx.merge(graphdef, params).read(images)[0])
    params = jax.device_put(network.params)
    offset = 0.5 if network.config.model.name == HAND else 0.0  # from pixel centres to MediaPipe's corners
    return lambda images: np.asarray(forward(params, images)) + offset


def litert_of(source: Path, kind: str, size: str) -> Callable:
    """The same through LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    folder = source if (source / "modules").is_dir() else source / "mediapipe"
    network = Interpreter(str(folder / "modules" / MODULES[kind].format(size)), num_threads=os.cpu_count())
    network.allocate_tensors()
    inputs = network.get_input_details()[0]["index"]
    output = min(network.get_output_details(), key=lambda output: output["name"])["index"]

    def run(images):
        found = []
        for image in images:
            network.set_tensor(inputs, image[None])
            network.invoke()
            found.append(network.get_tensor(output)[0])
        found = np.stack(found)
        return found.reshape(-1, 21, 3)[..., :2] if kind == HAND else found

    return run


if __name__ == "__main__":
    main()
