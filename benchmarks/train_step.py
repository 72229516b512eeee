"""Training throughput of the default network in JAX and in PyTorch, timed in turn on the same CPU.

`python -m benchmarks.train_step` (or `make benchmark`): a full AdamW step on a batch in memory. First, the parameters
are copied and both losses are compared, which shows that the networks are the same. Each round times both; the ratio is
the median over rounds.
"""

import argparse
import statistics
import time

import jax
import numpy as np
import torch

from benchmarks import torch_dense
from jaxhand import config as configs
from jaxhand.data import pipeline
from jaxhand.data.synthetic import dataset
from jaxhand.training.sharding import make_mesh, to_global
from jaxhand.training.step import Trainer


def main() -> None:
    """Time both frameworks in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="per round")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    config = configs.load(None, [f"training.batch_size={arguments.batch_size}", "data.depth_dropout=0"])
    source = dataset.load("train", arguments.batch_size, progress=lambda line: None)
    batch = next(pipeline.train_iterator(source, config))
    del batch["index"]

    trainer = Trainer(config, make_mesh(), total_steps=1000)
    state, on_device = trainer.init(), to_global(batch, trainer.device_mesh)
    network, optimizer, tensors = pytorch(config, state["params"], batch)
    predictions = trainer.eval_step(state["params"], state["batch_stats"], on_device)[0]
    ours = float(predictions["loss"]) / arguments.batch_size
    theirs = torch_dense.loss(network(as_float(tensors)), tensors, config.loss).item()
    print(f"loss before training: JAX {ours:.6f}, PyTorch {theirs:.6f}")
    assert abs(ours - theirs) < 1e-4 * abs(ours), "not the same network"

    def jax_round() -> float:
        nonlocal state
        begin = time.perf_counter()
        for _ in range(arguments.steps):
            state, loss = trainer.train_step(state, on_device)
        jax.block_until_ready(loss)
        return time.perf_counter() - begin

    def torch_round(step) -> float:
        begin = time.perf_counter()
        for _ in range(arguments.steps):
            step()
        return time.perf_counter() - begin

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch_dense.loss(network(as_float(tensors)), tensors, config.loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        return loss.item()

    jax_round(), torch_round(step)
    times = [(jax_round(), torch_round(step)) for _ in range(arguments.rounds)]
    images = arguments.steps * arguments.batch_size
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    print(f"{parameters:,} parameters, batch {arguments.batch_size}, {torch.get_num_threads()} threads")
    for name, seconds in zip((f"JAX {jax.__version__}", f"PyTorch {torch.__version__} eager"), zip(*times)):
        rates = [images / s for s in seconds]
        print(f"{name:24} {statistics.median(rates):6.0f} images/s (best {max(rates):.0f}, worst {min(rates):.0f})")
    ratio = statistics.median(theirs / ours for ours, theirs in times)
    print(f"JAX is {ratio:.2f} times as fast (median ratio of {arguments.rounds} rounds in turn)")


def pytorch(config: configs.Config, params: dict, batch: dict):
    """The network with the same parameters, its AdamW, and the batch as tensors."""
    network = torch_dense.Dense(config.model, config.data.image_size)
    copy_parameters(params, network)
    adamw = config.optimizer
    optimizer = torch.optim.AdamW(
        network.parameters(), adamw.learning_rate, (adamw.b1, adamw.b2), weight_decay=adamw.weight_decay
    )
    return network, optimizer, {key: torch.from_numpy(value) for key, value in batch.items()}


def as_float(batch: dict) -> dict:
    """The batch with its images (B, h, w, 3) in 0..1."""
    return batch | {"image": batch["image"].float() / 255}


def copy_parameters(params: dict, network: torch.nn.Module) -> None:
    """Fill a `torch_dense.Dense` with the parameters of the JAX network; every one must be used."""
    flat = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        path = jax.tree_util.keystr(path, simple=True, separator=".")
        leaf = np.asarray(leaf)
        if path.endswith("kernel"):
            path, leaf = path.replace("kernel", "weight"), leaf.T
        flat[path.replace("scale", "weight")] = torch.from_numpy(leaf.copy())
    network.load_state_dict(flat)


if __name__ == "__main__":
    main()
