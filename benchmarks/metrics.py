"""PA-MPJPE against the field's ways to it, side by side in one run: `python -m benchmarks.metrics [--rounds N]`.

Peers, written here from their formulas: torch's batched SVD (as HaMeR), scipy's `orthogonal_procrustes` a sample (as
FreiHAND), numpy's batched SVD, and `jnp.linalg.svd`. Every round times all of them in turn; figures are medians over
rounds, ratios medians of each round's ratio. A slow peer gets fewer samples, and is counted per sample.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes

from benchmarks.procrustes import hands, in_turn
from jaxhand.metrics import pa_mpjpe

SIZES = ((1_000, 21), (100_000, 21), (1_000_000, 21), (4_000, 778))
GRADIENT_SIZE = (10_000, 21)
SECONDS_A_CALL = 0.5  # a peer slower than that gets a part of the samples


def main() -> None:
    """Time all sizes and print a table for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"jax {jax.__version__}, torch {torch.__version__}, {jax.devices()[0].device_kind}, {rounds} rounds in turn")
    for count, points in SIZES:
        _alignment(count, points, rounds)
    _gradient(*GRADIENT_SIZE, rounds)


def _alignment(count: int, points: int, rounds: int) -> None:
    pred, gt = hands(count, points)
    on_device, valid = [jnp.asarray(array) for array in (pred, gt)], jnp.ones((count, points))
    tensors = [torch.from_numpy(array) for array in (pred, gt)]
    copies = [torch.empty_like(tensor) for tensor in tensors]
    ways = {
        "jaxhand": (lambda n: pa_mpjpe(*on_device).block_until_ready(), count),
        "jaxhand, numpy in and out": (lambda n: np.asarray(pa_mpjpe(pred, gt)), count),
        "jaxhand, with a mask": (lambda n: pa_mpjpe(*on_device, valid=valid).block_until_ready(), count),
        "torch SVD (HaMeR)": _cut(lambda n: torch_svd(*(t[:n] for t in tensors)), count),
        "scipy, one by one (FreiHAND)": _cut(lambda n: scipy_each(pred[:n], gt[:n]), count),
        "numpy SVD": _cut(lambda n: numpy_svd(pred[:n], gt[:n]), count),
        "jnp.linalg.svd": (lambda n: jax_svd(*on_device).block_until_ready(), count),
        "copy of the inputs": (lambda n: [to.copy_(tensor) for to, tensor in zip(copies, tensors)], count),
    }
    expected = numpy_svd(np.float64(pred[:1000]), np.float64(gt[:1000]))
    worst = np.abs(np.asarray(pa_mpjpe(pred, gt))[:1000] - expected).max()
    times = _in_turn(ways, rounds)
    bytes_a_sample = 2 * 4 * 3 * points
    copied = 2 * bytes_a_sample / np.median(times["copy of the inputs"])  # read and written, bytes/s
    print(f"\n{count:,} x {points} points; copying: {copied / 1e9:.1f} GB/s; worst error {worst:.1e} mm in float32")
    print(f"| {'way':28} | samples/s | jaxhand over it | of the copy bandwidth |\n|---|---|---|---|")
    for name, seconds in times.items():
        ratio, share = np.median(seconds / times["jaxhand"]), bytes_a_sample / np.median(seconds) / copied
        print(f"| {name:28} | {1 / np.median(seconds):,.0f} | {ratio:.2f} | {100 * share:.2g} % |", flush=True)


def _gradient(count: int, points: int, rounds: int) -> None:
    pred, gt = (jnp.asarray(array) for array in hands(count, points))
    ours = jax.jit(jax.grad(lambda pred: pa_mpjpe(pred, gt).mean()))
    theirs = jax.jit(jax.grad(lambda pred: jax_svd(pred, gt).mean()))
    ways = {
        "forward": (lambda n: pa_mpjpe(pred, gt).block_until_ready(), count),
        "gradient": (lambda n: ours(pred).block_until_ready(), count),
        "gradient through jnp.linalg.svd": (lambda n: theirs(pred).block_until_ready(), count),
    }
    times = _in_turn(ways, rounds)
    print(f"\n{count:,} x {points} points\n| {'what':31} | ms | over the forward pass |\n|---|---|---|")
    for name, seconds in times.items():
        ratio = np.median(seconds / times["forward"])
        print(f"| {name:31} | {1e3 * count * np.median(seconds):.2f} | {ratio:.2f} |", flush=True)


def _in_turn(ways: dict, rounds: int) -> dict[str, np.ndarray]:
    """Seconds a sample of every way, (rounds,). A way is a function of a number of samples, and that number."""
    times = in_turn({name: partial(call, count) for name, (call, count) in ways.items()}, rounds)
    return {name: seconds[:, 0] / ways[name][1] for name, seconds in times.items()}


def _cut(call, count: int) -> tuple:
    """The call with as many samples as it does in `SECONDS_A_CALL`."""
    probe = min(count, 200)
    call(probe)
    start = time.perf_counter()
    call(probe)
    seconds = (time.perf_counter() - start) / probe
    return call, int(min(count, max(probe, SECONDS_A_CALL / seconds)))


def torch_svd(pred, gt):
    """PA-MPJPE as HaMeR's `compute_similarity_transform` and `reconstruction_error` have it."""
    pred_mean, gt_mean = pred.mean(1, keepdim=True), gt.mean(1, keepdim=True)
    x, y = pred - pred_mean, gt - gt_mean
    covariance = x.mT @ y
    u, _, vh = torch.linalg.svd(covariance)
    sign = torch.eye(3).repeat(len(pred), 1, 1)
    sign[:, 2, 2] = torch.sign(torch.linalg.det(u @ vh))
    rotation = vh.mT @ sign @ u.mT
    scale = (rotation @ covariance).diagonal(dim1=1, dim2=2).sum(1) / x.square().sum((1, 2))
    aligned = scale[:, None, None] * (x @ rotation.mT) + gt_mean
    return (aligned - gt).square().sum(-1).sqrt().mean(-1)


def numpy_svd(pred, gt):
    """The same by numpy's batched SVD."""
    x, gt_mean = pred - pred.mean(1, keepdims=True), gt.mean(1, keepdims=True)
    u, sigma, vt = np.linalg.svd(np.swapaxes(gt - gt_mean, 1, 2) @ x)
    sign = np.ones_like(sigma)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt
    scale = (sigma * sign).sum(-1) / np.square(x).sum((1, 2))
    aligned = scale[:, None, None] * (x @ np.swapaxes(rotation, 1, 2)) + gt_mean
    return np.linalg.norm(aligned - gt, axis=-1).mean(-1)


def scipy_each(pred, gt):
    """FreiHAND's `align_w_scale`, sample by sample (which may mirror)."""
    errors = []
    for p, g in zip(pred, gt):
        center = g.mean(0)
        x, y = p - p.mean(0), g - center
        size_x, size_y = np.linalg.norm(x) + 1e-8, np.linalg.norm(y) + 1e-8
        rotation, scale = orthogonal_procrustes(y / size_y, x / size_x)
        errors.append(np.linalg.norm((x / size_x) @ rotation.T * scale * size_y + center - g, axis=1).mean())
    return np.array(errors)


@jax.jit
def jax_svd(pred, gt):
    """The same by `jnp.linalg.svd`."""
    x, gt_mean = pred - pred.mean(1, keepdims=True), gt.mean(1, keepdims=True)
    matmul = partial(jnp.matmul, precision="highest")
    u, sigma, vt = jnp.linalg.svd(matmul((gt - gt_mean).mT, x))
    sign = jnp.ones_like(sigma).at[:, 2].set(jnp.sign(jnp.linalg.det(matmul(u, vt))))
    rotation = matmul(u * sign[:, None], vt)
    scale = (sigma * sign).sum(-1) / jnp.square(x).sum((1, 2))
    aligned = scale[:, None, None] * matmul(x, rotation.mT) + gt_mean
    return jnp.linalg.norm(aligned - gt, axis=-1).mean(-1)


if __name__ == "__main__":
    main()
