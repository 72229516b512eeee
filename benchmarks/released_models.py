"""Forward pass of HaMeR in JAX and in PyTorch, timed in turn with the same weights.

`python -m benchmarks.released_models`: a network of ViT-B's size in float32, on the CPU, hands in batches of 1 and 8.
`--gpu`: HaMeR's own size in bfloat16 against torch.compile, batches of 1, 8 and 64. The PyTorch network gets random
weights and is saved; ours is converted from that file. Before timing, the outputs of both must agree. Timed from the
crop in the device's memory to the mesh in the device's memory.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from benchmarks.torch_hamer import Hamer
from jaxhand import config as configs
from jaxhand import hand, models
from jaxhand.interop import checkpoints
from jaxhand.models.preprocess import IMAGE_MEAN, IMAGE_STD

TINY = ("model.vit.width=384", "model.vit.depth=2", "model.vit.heads=6", "model.hamer.depth=2")


def main() -> None:
    """Build both, compare, and time them batch by batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="ViT-H, bfloat16, torch.compile")
    parser.add_argument("--tiny", action="store_true", help="a small network, to see that all works")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32, with --gpu bfloat16")
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1 8, with --gpu 1 8 64")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of calls per round and side")
    arguments = parser.parse_args()
    dtype = arguments.dtype or ("bfloat16" if arguments.gpu else "float32")
    sizes = TINY if arguments.tiny else [f"model.vit.size={'H' if arguments.gpu else 'B'}"]
    config = configs.load(None, ["model.name=hamer", "data.image_size=256", f"model.dtype={dtype}", *sizes])
    device = "cuda" if arguments.gpu and torch.cuda.is_available() else "cpu"
    theirs, ours = pair(config, device)
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    numbers = sum(parameter.numel() for parameter in theirs.parameters())
    versions = f"jax {jax.__version__}, torch {torch.__version__}"
    print(f"HaMeR, {numbers / 1e6:.0f} M parameters, {dtype}; {versions}, {hardware}")
    for batch in arguments.batches or ((1, 8, 64) if arguments.gpu else (1, 8)):
        jax_call, torch_call = calls(theirs, ours, batch, dtype, device, arguments.gpu)
        error, size = difference(jax_call, torch_call)
        print(f"batch {batch}: meshes of {size:.0f} mm differ by {error:.4f} mm at most")
        assert error < size * (1e-4 if dtype == "float32" else 0.05), "not the same network"
        rounds = [
            (clock(jax_call, arguments.seconds), clock(torch_call, arguments.seconds)) for _ in range(arguments.rounds)
        ]
        name = "torch.compile" if arguments.gpu else "PyTorch eager"
        for side, times in zip(("JAX", name), zip(*rounds)):
            middle, best, worst = (1000 * f(times) for f in (statistics.median, min, max))
            rate = 1000 * batch / middle
            print(f"  {side:14} {middle:8.2f} ms ({best:.2f} to {worst:.2f}), {rate:.1f} hands/s")
        ratio = statistics.median(torch_time / jax_time for jax_time, torch_time in rounds)
        print(f"  JAX is {ratio:.2f} times as fast (median ratio of {arguments.rounds} rounds in turn)", flush=True)


def pair(config: configs.Config, device: str, *, half_weights: bool = True):
    """A random PyTorch network, and (graph, arrays) of ours with its weights.

    With `half_weights`, the weights of a network in bfloat16 are rounded, as for inference.
    """
    torch.manual_seed(0)
    theirs = Hamer(config, hand.load(config.hand)).eval()
    with torch.no_grad():
        theirs.mano_head.init_cam.copy_(torch.tensor([7.0, 0.0, 0.0]))
        theirs.mano_head.init_betas.zero_()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hamer.ckpt"
        torch.save({"state_dict": theirs.state_dict()}, path)
        vit = (f"model.vit.heads={theirs.backbone.blocks[0].attn.heads}", f"model.dtype={config.model.dtype}")
        converted = checkpoints.convert("hamer", path, overrides=vit)
    graphdef = nnx.split(nnx.eval_shape(lambda: models.build(converted.config)))[0]
    arrays = jax.device_put((converted.params, converted.non_trainable))
    if config.model.dtype == "bfloat16" and half_weights:
        arrays = jax.tree_util.tree_map_with_path(rounded, arrays)
        theirs = theirs.to(device)
        theirs.backbone.bfloat16(), theirs.mano_head.transformer.bfloat16()
    return theirs.to(device), (graphdef, arrays)


def rounded(path, leaf):
    """Convert the kernels of products to bfloat16, as in PyTorch, so that no call has to round them."""
    kernel = path[-1].key == "kernel" and not any(getattr(key, "key", "").startswith("dec") for key in path)
    return leaf.astype(jnp.bfloat16) if kernel else leaf


def images(batch: int, device: str) -> tuple[dict, torch.Tensor]:
    """The same random crops for both: a batch of ours on the device, and a normalised tensor (B, 3, 256, 256)."""
    image = np.random.default_rng(0).uniform(0, 1, (batch, 256, 256, 3)).astype(np.float32)
    K = np.float32([[5000, 0, 128], [0, 5000, 128], [0, 0, 1]])
    on_device = jax.device_put({"image": image, "K": np.tile(K, (batch, 1, 1))})
    normed = torch.from_numpy((image - np.float32(IMAGE_MEAN)) / np.float32(IMAGE_STD))
    return on_device, normed.permute(0, 3, 1, 2).contiguous().to(device)


def calls(theirs, ours, batch: int, dtype: str, device: str, compiled: bool):
    """Both sides as functions without arguments, which wait for the vertices (B, V, 3)."""
    graphdef, arrays = ours
    step = jax.jit(lambda arrays, batch: nnx.merge(graphdef, *arrays)(batch))
    on_device, normed = images(batch, device)
    network = torch.compile(theirs) if compiled else theirs
    half = torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")

    def jax_call():
        return jax.block_until_ready(step(arrays, on_device))["vertices"]

    def torch_call():
        with torch.inference_mode(), half:
            vertices = network(normed)[0]
        if device == "cuda":
            torch.cuda.synchronize()
        return vertices

    return jax_call, torch_call


def difference(jax_call, torch_call) -> tuple[float, float]:
    """The largest distance between the two meshes, and their size, mm; both relative to the first vertex."""
    ours, theirs = np.asarray(jax_call()), torch_call().cpu().numpy()
    ours, theirs = ours - ours[:, :1], theirs - theirs[:, :1]
    return np.linalg.norm(ours - theirs, axis=-1).max(), np.linalg.norm(theirs, axis=-1).max()


def clock(call, seconds: float) -> float:
    """Seconds per call, over as many calls as fill a time, at least two."""
    count, begin = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - begin < seconds:
        call()
        count += 1
    return (time.perf_counter() - begin) / count


if __name__ == "__main__":
    main()
