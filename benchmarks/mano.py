"""MANO's forward pass in JAX and in PyTorch, timed in one run: `python -m benchmarks.mano [--rounds N]`.

Compared with smplx itself, if it is installed (`pip install smplx==0.1.28`), and with its `lbs` written plainly in
torch. All pose the same random arrays of MANO's shapes, from axis-angle to vertices, and must agree. Every round times
all of them in turn; times are medians over rounds, ratios are medians of the rounds' ratios.
"""

import argparse
import importlib.util
import pickle
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxhand.hand import mano
from jaxhand.hand.skinned import PARENTS, forward
from tests.support import mano_file

BATCHES = (1, 64, 1024)
LEAST_SECONDS = 0.2  # seconds of calls that are timed together
PAUSE = 0.3  # seconds, until the threads of the implementation before are asleep


def main() -> None:
    """Time all batch sizes and print a table for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mano", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    threads = torch.get_num_threads()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {threads} threads, {rounds} rounds in turn")
    numbers = mano_file.model()
    with tempfile.TemporaryDirectory() as folder:
        hand = mano.read(mano_file.write(Path(folder) / "MANO_RIGHT.pkl", numbers))
        plain_file = Path(folder) / "plain_RIGHT.pkl"
        plain_file.write_bytes(pickle.dumps(numbers))  # for smplx, which needs chumpy for the other form
        for batch in BATCHES:
            _table(batch, rounds, hand, numbers, plain_file)


def _table(batch: int, rounds: int, hand, numbers: dict, file: Path) -> None:
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(batch, n), scale=scale).astype(np.float32) for n, scale in ((48, 0.3), (10, 1))]
    on_device, tensors = [jnp.asarray(each) for each in given], [torch.from_numpy(each) for each in given]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def vertices(pose, shape):
        return forward(hand, mano.pose_rotations(hand, pose), shape).vertices

    ours, gradient = jax.jit(vertices), jax.jit(jax.grad(lambda *each: jnp.sum(vertices(*each) ** 2), (0, 1)))
    peers = {"plain torch": Plain(numbers)}
    if importlib.util.find_spec("smplx"):
        import smplx

        model = smplx.MANO(str(file), use_pca=False, flat_hand_mean=True, batch_size=batch)
        peers["smplx"] = lambda pose, shape: model(shape, pose[:, :3], pose[:, 3:]).vertices

    def no_gradient(peer):
        with torch.no_grad():
            return peer(*tensors)

    ways = {"jaxhand": lambda: jax.block_until_ready(ours(*on_device))}
    ways |= {name: lambda peer=peer: no_gradient(peer) for name, peer in peers.items()}
    for name in peers:
        difference = np.abs(np.asarray(ways["jaxhand"]()) - 1000 * ways[name]().numpy()).max()
        assert difference < 1e-3, f"{name} differs by {difference} mm"
    gradients = {"jaxhand": lambda: jax.block_until_ready(gradient(*on_device))}
    for name, peer in peers.items():
        gradients[name] = lambda peer=peer: torch.autograd.grad(peer(*leaves).square().sum(), leaves)
    head = "forward, ms | jaxhand over it | with gradient, ms | jaxhand over it"
    print(f"\nbatch {batch}\n| implementation | {head} |\n|---|---|---|---|---|")
    tables = [_in_turn(each, rounds) for each in (ways, gradients)]
    for name in ways:
        cells = (f"{1e3 * np.median(t[name]):.3f} | {np.median(t[name] / t['jaxhand']):.2f}" for t in tables)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _in_turn(ways: dict, rounds: int) -> dict[str, np.ndarray]:
    """Seconds per call of every implementation, (rounds,): over `LEAST_SECONDS` of calls, after one untimed call."""
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            time.sleep(PAUSE)
            call()
            begin, calls = time.perf_counter(), 0
            while calls == 0 or time.perf_counter() - begin < LEAST_SECONDS:
                call()
                calls += 1
            times[name].append((time.perf_counter() - begin) / calls)
    return {name: np.array(values) for name, values in times.items()}


class Plain:
    """Linear blend skinning in the steps of smplx's `lbs`: axis-angle and shape → vertices, metres."""

    def __init__(self, numbers: dict):
        as_tensor = {key: torch.from_numpy(np.float32(value)) for key, value in numbers.items()}
        self.template, self.shape_dirs, self.regressor, self.weights = (
            as_tensor[key] for key in ("v_template", "shapedirs", "J_regressor", "weights")
        )
        self.pose_dirs = as_tensor["posedirs"].reshape(-1, 135).T.contiguous()  # (135, V * 3)

    def __call__(self, pose, shape):
        """(B, 48), (B, 10) → (B, V, 3)."""
        batch = len(pose)
        turns = rodrigues(pose.reshape(-1, 3)).reshape(batch, 16, 3, 3)
        shaped = self.template + torch.einsum("bl,mkl->bmk", shape, self.shape_dirs)
        joints = torch.einsum("bik,ji->bjk", shaped, self.regressor)
        features = (turns[:, 1:] - torch.eye(3)).reshape(batch, 135)
        rest = shaped + (features @ self.pose_dirs).reshape(batch, -1, 3)
        offsets = joints.clone()
        offsets[:, 1:] -= joints[:, list(PARENTS[1:])]
        last = torch.tensor([0.0, 0, 0, 1]).expand(batch, 16, 1, 4)
        local = torch.cat([torch.cat([turns, offsets[..., None]], 3), last], 2)  # (B, 16, 4, 4)
        chain = [local[:, 0]]
        for joint in range(1, 16):
            chain.append(chain[PARENTS[joint]] @ local[:, joint])
        posed = torch.stack(chain, 1)
        moved = posed @ torch.nn.functional.pad(joints, [0, 1])[..., None]
        motions = posed - torch.nn.functional.pad(moved, [3, 0])
        maps = (self.weights.expand(batch, -1, -1) @ motions.reshape(batch, 16, 16)).reshape(batch, -1, 4, 4)
        return (maps @ torch.nn.functional.pad(rest, [0, 1], value=1.0)[..., None])[:, :, :3, 0]


def rodrigues(turns):
    """Axis-angles (N, 3) → matrices (N, 3, 3)."""
    angle = torch.norm(turns + 1e-8, dim=1, keepdim=True)
    x, y, z = torch.split(turns / angle, 1, dim=1)
    zero = torch.zeros_like(x)
    cross = torch.cat([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    sine, cosine = angle.sin()[..., None], angle.cos()[..., None]
    return torch.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)


if __name__ == "__main__":
    main()
