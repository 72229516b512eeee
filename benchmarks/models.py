"""Layers of the models in JAX and in PyTorch, timed in turn with the same parameters on the same machine.

`python -m benchmarks.models`: MANO's layer against smplx, then vision transformers on images of 256x192 px, float32, on
the CPU: the forward pass, and a step of training with AdamW. `--gpu`: steps of training of ViT-H in bfloat16 against
torch.compile. Before timing, the outputs and the losses of both sides must be equal.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

from benchmarks import torch_hamer
from benchmarks.gpu import peak_tflops
from benchmarks.released_models import clock
from jaxhand.config import ViTConfig
from jaxhand.interop import names
from jaxhand.models import vit

SIDES = (256, 192)  # px
RATE, DECAY = 1e-4, 1e-2  # of AdamW
PAUSE = 0.3  # seconds, until the threads of the other side are asleep
SIZES = {size: ViTConfig(size=size) for size in vit.SIZES} | {"tiny": ViTConfig(width=64, depth=2, heads=2)}


def main() -> None:
    """Parse the command line, time everything and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of calls per round and side")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default: S B, with --gpu H")
    parser.add_argument("--gpu", action="store_true", help="train in bfloat16 against torch.compile")
    parser.add_argument("--batch-size", type=int, default=64, help="with --gpu")
    parser.add_argument("--remat", action="store_true", help="with --gpu: JAX computes activations again")
    parser.add_argument("--peak", type=float, help="with --gpu: TFLOP/s of the device, if it is unknown")
    arguments = parser.parse_args()
    versions = f"jax {jax.__version__}, torch {torch.__version__}"
    if arguments.gpu:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # both sides share the memory
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{versions}, {device}, bfloat16, batch of {arguments.batch_size}, {arguments.rounds} rounds in turn")
        for size in arguments.sizes or ["H"]:
            _gpu(size, arguments)
        return
    print("MANO's layer", flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.mano", "--rounds", str(arguments.rounds)], check=True)
    threads = f"{torch.get_num_threads()} threads"
    print(f"\nVision transformers\n{versions}, {threads}, float32, {arguments.rounds} rounds in turn\n")
    print("| what | JAX, ms | PyTorch, ms | JAX is so many times as fast |\n|---|---|---|---|")
    for size in arguments.sizes or ["S", "B"]:
        sides = _Sides(size)
        for batch in (1, 8):
            _row(f"ViT-{size} forward, batch of {batch}", *sides.forward(batch), arguments)
        _row(f"ViT-{size} train step, batch of 8", *sides.training(8), arguments)


class _Sides:
    """A network with random parameters in PyTorch, and ours with the same parameters."""

    def __init__(self, size: str, *, dtype: str = "float32", remat: bool = False, compiled: bool = False):
        torch.manual_seed(0)
        self.config = config = vit.resolve_size(SIZES[size])
        self.device = "cuda" if compiled and torch.cuda.is_available() else "cpu"
        self.half = torch.autocast(self.device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
        self.theirs = torch_hamer.ViT(config.width, config.depth, config.heads, config.mlp_ratio)
        tensors = {f"backbone.{name}": value.numpy() for name, value in self.theirs.state_dict().items()}
        build = functools.partial(vit.ViT, config, SIDES, padding=2, dtype=dtype, remat=remat)
        self.graphdef, shapes = nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
        params = {}
        for path, leaf in nnx.to_flat_state(shapes):
            source = names.source_of("vitpose", "/".join(("backbone", *path)), leaf.shape)
            arrays = [source.transform(tensors[key]) for key in source.keys]
            params[path] = np.stack(arrays) if source.stacked else arrays[0]
        self.params = jax.device_put(nnx.to_pure_dict(nnx.from_flat_state(params)))
        self.theirs = self.theirs.to(self.device)
        self.network = torch.compile(self.theirs) if compiled else self.theirs
        self.tolerance = 1e-3 if dtype == "float32" else 0.1

    def forward(self, batch: int):
        """Check that both forward passes agree; returns them as functions without arguments."""
        image, tensor = self._images(batch)
        run = jax.jit(lambda params, image: nnx.merge(self.graphdef, params)(image))

        def ours():
            return run(self.params, image).block_until_ready()

        def theirs():
            with torch.inference_mode(), self.half:
                return self.network(tensor)

        _same(np.asarray(ours()), theirs().numpy(), self.tolerance)
        return ours, theirs

    def training(self, batch: int):
        """Check that three training steps agree; returns both as functions: () → loss."""
        image, tensor = self._images(batch)
        target = np.random.default_rng(1).normal(0, 1, (batch, 192, self.config.width)).astype(np.float32)
        aim = torch.from_numpy(target).to(self.device)

        def mean_square(params, image, target):
            return jnp.square(nnx.merge(self.graphdef, params)(image) - target).mean()

        def torch_mean_square():
            with self.half:
                tokens = self.network(tensor)
            return (tokens.float() - aim).square().mean()

        inputs = image, jax.device_put(target)
        return adamw_steps(mean_square, self.params, inputs, torch_mean_square, self.theirs, self.tolerance)

    def _images(self, batch: int):
        image = np.random.default_rng(0).normal(0, 1, (batch, *SIDES, 3)).astype(np.float32)
        return jax.device_put(image), torch.from_numpy(image).permute(0, 3, 1, 2).contiguous().to(self.device)


def adamw_steps(mean_loss, params: dict, inputs: tuple, torch_loss, network: torch.nn.Module, tolerance: float):
    """Check that three training steps with AdamW agree in JAX and in PyTorch.

    Args:
        mean_loss: (params, *inputs) → loss in JAX.
        params: parameters of the network in JAX; they are copied.
        inputs: arrays on the device.
        torch_loss: () → loss in PyTorch.
        network: its parameters are trained.
        tolerance: largest difference of the losses, relative to the largest loss.

    Returns:
        The steps in JAX and in PyTorch as functions: () → loss.
    """
    adamw, params = optax.adamw(RATE, weight_decay=DECAY), jax.tree.map(jnp.copy, params)
    state = (params, adamw.init(params))
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY, fused=True)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, *inputs):
        params, moments = state
        loss, gradient = jax.value_and_grad(mean_loss)(params, *inputs)
        updates, moments = adamw.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), loss

    def ours():
        nonlocal state
        state, loss = step(state, *inputs)
        return loss.item()

    def theirs():
        optimizer.zero_grad(set_to_none=True)
        loss = torch_loss()
        loss.backward()
        optimizer.step()
        return loss.item()

    _same(*(np.array([side() for _ in range(3)]) for side in (ours, theirs)), tolerance)
    return ours, theirs


def _same(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert worst < tolerance, f"not the same network: they differ by {worst:.1e}"


def _in_turn(ours, theirs, arguments) -> np.ndarray:
    """Seconds per call, (rounds, 2)."""
    rounds = []
    for _ in range(arguments.rounds):
        rounds.append([])
        for side in (ours, theirs):
            time.sleep(PAUSE)
            rounds[-1].append(clock(side, arguments.seconds))
    return np.array(rounds)


def _row(what: str, ours, theirs, arguments) -> None:
    """Time both sides and print a line of the table."""
    seconds = _in_turn(ours, theirs, arguments)
    middle = 1e3 * np.median(seconds, axis=0)
    ratio = statistics.median(seconds[:, 1] / seconds[:, 0])
    print(f"| {what} | {middle[0]:.0f} | {middle[1]:.0f} | **{ratio:.2f}** |", flush=True)


def _gpu(size: str, arguments) -> None:
    """Print the images/s of training, and their share of the device's peak FLOP/s."""
    sides = _Sides(size, dtype="bfloat16", remat=arguments.remat, compiled=True)
    seconds = _in_turn(*sides.training(arguments.batch_size), arguments)
    config, T, E = sides.config, SIDES[0] * SIDES[1] // 16**2, sides.config.width
    block = (8 + 4 * config.mlp_ratio) * T * E**2 + 4 * T**2 * E  # FLOPs of a forward pass
    flops = 3 * (config.depth * block + 2 * T * 3 * 16**2 * E)
    peak = arguments.peak or peak_tflops()
    print(f"\n| ViT-{size} train step | ms | images/s | MFU of {peak:.0f} TFLOP/s |\n|---|---|---|---|")
    for name, middle in zip(
        ("JAX, rematerialised" if arguments.remat else "JAX", "torch.compile"), np.median(seconds, 0)
    ):
        rate = arguments.batch_size / middle
        print(f"| {name} | {1e3 * middle:.1f} | {rate:.1f} | {rate * flops / peak / 1e10:.1f} % |")
    ratio = statistics.median(seconds[:, 1] / seconds[:, 0])
    print(f"\nJAX is {ratio:.2f} times as fast (median ratio of the rounds)", flush=True)


if __name__ == "__main__":
    main()
