"""All speeds that need a GPU, as one Markdown table in at most 8 minutes: `python -m benchmarks.gpu`.

Each part is a process with a time limit. A part that fails or is stopped costs its own rows only; parts for which no
time is left are skipped; each of them has a line that says so. `--small` computes tiny sizes in this process, to test
the script on a CPU: its times mean nothing. Without PyTorch, the comparison with torch.compile is left out.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import procrustes
from jaxhand import config as configs
from jaxhand.data.synthetic import dataset, render
from jaxhand.metrics import pa_mpjpe
from jaxhand.models import summary
from jaxhand.training.sharding import make_mesh, to_global
from jaxhand.training.step import Trainer

PEAK = {
    "H100 PCIe": 756,
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "L40S": 362,
    "4090": 165,
}  # TFLOP/s of dense bfloat16, from the data sheets
SHORTEST_S = 15.0  # a part is not started with less time
HEADER = "| what | batch | ms (fastest to slowest round) | per second | note |\n|---|---|---|---|---|"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of all parts."""

    hamer: tuple[str, ...]  # overrides of the config
    hamer_batch: int
    inference: tuple[int, ...]  # batches
    networks: tuple[str, ...]  # overrides of the configs of the default and of the fast mesh network
    batches: tuple[int, ...]  # of these networks
    hands: int  # of PA-MPJPE
    images: int  # rendered in one call, 64 px
    rounds: int


FULL = Sizes(
    hamer=("model.vit.size=H",),
    hamer_batch=64,
    inference=(1, 8, 64),
    networks=(),
    batches=(64, 1024),
    hands=1_000_000,
    images=1024,
    rounds=7,
)
SMALL = Sizes(
    hamer=("model.vit.width=64", "model.vit.depth=2", "model.vit.heads=2", "model.hamer.depth=1"),
    hamer_batch=4,
    inference=(1, 2),
    networks=("model.width=32", "model.fine_blocks=0", "model.blocks=1", "model.joint_blocks=0", "model.looks=1"),
    batches=(8,),
    hands=1000,
    images=16,
    rounds=1,
)


class Row(NamedTuple):
    """A row of the table."""

    what: str
    batch: int = 0  # images or hands of a call; 0: nothing was timed
    seconds: Sequence[float] | np.ndarray = ()  # of a call, by round
    note: str = ""

    def __str__(self) -> str:
        if not self.batch:
            return f"| {self.what} | | | | {self.note} |"
        middle, best, worst = (1e3 * f(self.seconds) for f in (np.median, min, max))
        rate = f"{1e3 * self.batch / middle:,.1f}"
        return f"| {self.what} | {self.batch:,} | {middle:.2f} ({best:.2f} to {worst:.2f}) | {rate} | {self.note} |"


def hamer_config(sizes: Sizes, *overrides: str) -> configs.Config:
    """HaMeR in bfloat16 on crops of 256 px, with the built-in hand."""
    batch = f"training.batch_size={sizes.hamer_batch}"
    fixed = ("model.name=hamer", "model.dtype=bfloat16", "data.image_size=256")
    return configs.load(None, [*fixed, batch, *sizes.hamer, *overrides])


def train_step(config: configs.Config) -> Callable[[], None]:
    """A complete step of `jaxhand train`, on noise in the memory of the device, as a function that waits for it."""
    trainer = Trainer(config, make_mesh(config.training), total_steps=1000)
    batch = {key: np.ones(array.shape, array.dtype) for key, array in trainer.abstract_batch().items()}
    batch["image"] = np.random.default_rng(0).integers(0, 256, batch["image"].shape, np.uint8)
    side = config.data.image_size
    batch["K"][:] = [[2 * side, 0, side / 2], [0, 2 * side, side / 2], [0, 0, 1]]
    on_device, state = to_global(batch, trainer.device_mesh), trainer.init()

    def step() -> None:
        nonlocal state
        state, loss = trainer.train_step(state, on_device)
        jax.block_until_ready((state, loss))

    return step


def in_turn(ways: dict[str, Callable], sizes: Sizes) -> dict[str, np.ndarray]:
    """Wall-clock seconds of a call by round, for each way; all ways are timed in every round."""
    return {name: seconds[:, 0] for name, seconds in procrustes.in_turn(ways, sizes.rounds).items()}


def peak_tflops() -> float:
    """The first device's TFLOP/s of dense bfloat16; NaN if it is not in `PEAK`."""
    return next((peak for name, peak in PEAK.items() if name in jax.devices()[0].device_kind), np.nan)


def flops_used(config: configs.Config, seconds: np.ndarray) -> str:
    """The share of the peak FLOP/s (MFU) in a training step: three times the products of the forward pass."""
    forward = summary.summarize(config)[-1]["flops"] * config.training.batch_size
    rate, peak = 3e-12 * forward / float(np.median(seconds)) / jax.device_count(), peak_tflops()
    return f"{rate:.3g} TFLOP/s" + ("" if np.isnan(peak) else f", MFU {rate / peak:.1%} of {peak}")


def hamer_training(sizes: Sizes) -> Iterator[Row]:
    """The whole training step of HaMeR, losses and optimizer included."""
    config = hamer_config(sizes)
    seconds = in_turn({"step": train_step(config)}, sizes)["step"]
    yield Row("HaMeR, `jaxhand train` step", sizes.hamer_batch, seconds, flops_used(config, seconds))


def hamer_against_torch(sizes: Sizes) -> Iterator[Row]:
    """The same network, loss (mean square of vertices) and AdamW in JAX and in PyTorch, in turn."""
    what = "HaMeR, AdamW step in turn"
    if importlib.util.find_spec("torch") is None:
        yield Row(f"{what}: PyTorch", note="left out: no PyTorch; `pip install 'jaxhand[benchmark]'`")
        return
    import torch

    from benchmarks import models, released_models

    gpu = torch.cuda.is_available()
    if jax.default_backend() == "gpu" and not gpu:
        yield Row(f"{what}: PyTorch", note="left out: this PyTorch cannot use the GPU")
        return
    config, device = hamer_config(sizes), "cuda" if gpu else "cpu"
    theirs, (graphdef, (params, constants)) = released_models.pair(config, device, half_weights=False)
    on_device, tensor = released_models.images(sizes.hamer_batch, device)
    shape = (sizes.hamer_batch, theirs.mano.vertices, 3)
    target = np.random.default_rng(1).normal(size=shape).astype(np.float32)  # in 100 mm, relative to the first vertex
    aim, network = torch.from_numpy(target).to(device), torch.compile(theirs) if gpu else theirs

    def mean_square(params, constants, batch, target):
        vertices = nnx.merge(graphdef, params, constants)(batch)["vertices"]
        return jnp.square((vertices - vertices[:, :1]) / 100 - target).mean()

    def torch_mean_square():
        with torch.autocast(device, dtype=torch.bfloat16):
            vertices = network(tensor)[0]
        return ((vertices - vertices[:, :1]) / 100 - aim).square().mean()

    inputs = constants, on_device, jax.device_put(target)
    both = models.adamw_steps(mean_square, params, inputs, torch_mean_square, theirs, tolerance=0.1)
    names = "JAX", "torch.compile" if gpu else "PyTorch eager"
    times = in_turn(dict(zip(names, both)), sizes)
    ratio = np.median(times[names[1]] / times[names[0]])
    for name, seconds in times.items():
        note = flops_used(config, seconds) + (f"; JAX is **{ratio:.2f}** times as fast" if name == "JAX" else "")
        yield Row(f"{what}: {name}", sizes.hamer_batch, seconds, note)


def hamer_inference(sizes: Sizes) -> Iterator[Row]:
    """HaMeR's forward pass, from crops to meshes, in the memory of the device."""
    for found in summary.measure(hamer_config(sizes), sizes.inference):
        memory = f"{found['memory'] / 1e6:,.0f} MB besides parameters and batch" if found["memory"] is not None else ""
        yield Row("HaMeR, inference", found["batch"], [found["milliseconds"] / 1e3], memory)


def networks(sizes: Sizes) -> Iterator[Row]:
    """The whole training steps of the default network and of the fast mesh network."""
    for experiment in ("quickstart", "fast_mesh_synthetic"):
        for batch in sizes.batches:
            config = configs.load(experiment, [*sizes.networks, f"training.batch_size={batch}"])
            seconds = in_turn({"step": train_step(config)}, sizes)["step"]
            yield Row(f"`{experiment}`, train step", batch, seconds, config.model.dtype)


def pa(sizes: Sizes) -> Iterator[Row]:
    """PA-MPJPE of hands in the memory of the device."""
    pred, gt = map(jnp.asarray, procrustes.hands(sizes.hands, procrustes.JOINTS))
    seconds = in_turn({"pa": lambda: pa_mpjpe(pred, gt).block_until_ready()}, sizes)["pa"]
    yield Row(f"PA-MPJPE, {procrustes.JOINTS} joints", sizes.hands, seconds)


def rendering(sizes: Sizes) -> Iterator[Row]:
    """Scenes of the synthetic set, drawn and rendered on the device."""

    def images():
        return jax.block_until_ready(render.render(dataset.sample_scenes(0, np.arange(sizes.images), "front"), 64))

    note = "the data set itself always renders on the CPU, so that its images are equal everywhere"
    yield Row("synthetic set on the device, 64 px", sizes.images, in_turn({"render": images}, sizes)["render"], note)


def fsdp(sizes: Sizes) -> Iterator[Row]:
    """HaMeR's training step with `training.sharding=fsdp` against replicated, in turn."""
    kinds = "replicated", "fsdp"
    ways = {kind: train_step(hamer_config(sizes, f"training.sharding={kind}")) for kind in kinds}
    times = in_turn(ways, sizes)
    ratio = np.median(times["fsdp"] / times["replicated"])
    for kind, seconds in times.items():
        note = f"**{ratio:.3f}** times the time of replicated" if kind == "fsdp" else f"{jax.device_count()} device(s)"
        yield Row(f"HaMeR, `jaxhand train` step, {kind}", sizes.hamer_batch, seconds, note)


PARTS = {  # function and its time limit, s; together at most 8 minutes
    hamer_training: 90,
    hamer_against_torch: 130,
    hamer_inference: 50,
    networks: 60,
    pa: 30,
    rendering: 40,
    fsdp: 70,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run all parts, or one, and print their rows."""
    parts = {part.__name__: part for part in PARTS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes in this process, to test the script")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of the whole command (%(default)s)")
    parser.add_argument("--part", choices=parts, help="only the rows of this part, in this process, without a limit")
    arguments = parser.parse_args(argv)
    deadline, sizes = time.monotonic() + 60 * arguments.minutes, SMALL if arguments.small else FULL
    if arguments.part:
        show(parts[arguments.part](sizes))
        return
    if not arguments.small:  # the processes of both frameworks share the memory of the device
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    print(f"{machine()}; medians of {sizes.rounds} round(s); HaMeR: {' '.join(sizes.hamer)}, bfloat16\n\n{HEADER}")
    with tempfile.TemporaryDirectory() as cache:
        for part, limit in PARTS.items():
            limit = min(limit, deadline - time.monotonic())
            if limit < SHORTEST_S:
                show([Row(part.__name__, note="skipped: no time left")])
            elif arguments.small:
                show(part(sizes))
            else:
                show(in_process(part.__name__, limit, cache))


def in_process(part: str, limit: float, cache: str) -> Iterator[Row]:
    """Run a part in a process that prints its rows; yields a row if it fails or reaches its time limit."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}  # two parts compile the same step
    sys.stdout.flush()
    try:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", "--part", part], check=True, timeout=limit, env=environment
        )
    except subprocess.TimeoutExpired:
        yield Row(part, note=f"stopped after {limit:.0f} s")
    except subprocess.CalledProcessError as error:
        yield Row(part, note=f"failed with status {error.returncode}; its error is on stderr")


def show(rows: Iterator[Row] | list[Row]) -> None:
    """Print rows as they come."""
    for row in rows:
        print(row, flush=True)


def machine() -> str:
    """The devices and the versions."""
    device, names = jax.devices()[0], ("jax", "jaxlib", "flax", "torch")
    found = [f"{name} {importlib.metadata.version(name)}" for name in names if importlib.util.find_spec(name)]
    devices = f"{jax.device_count()} x {device.device_kind} ({' '.join(device.client.platform_version.split())})"
    return f"{devices}; Python {platform.python_version()}, {', '.join(found)}"


if __name__ == "__main__":
    main()
