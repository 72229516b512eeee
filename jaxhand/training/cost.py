"""Memory, communication and time of a train step on many devices, computed from shapes. Nothing is run or compiled.

The collectives are counted as ring algorithms (Thakur, Rabenseifner and Gropp 2005): see `ring`.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from jaxhand.config import Config
from jaxhand.models import summary
from jaxhand.training import sharding
from jaxhand.training.step import Trainer


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What a GPU's data sheet says; bandwidths are of one direction, in bytes/s."""

    flops: float  # dense bfloat16 products, FLOP/s; those of float32 (as TF32) run at half of this speed
    memory: float  # bytes
    hbm: float  # bandwidth of the GPU's memory
    nvlink: float  # bandwidth of a GPU to the others of its host
    network: float  # bandwidth of InfiniBand between hosts, for each GPU


GPUS = {  # SXM modules in a DGX or HGX host with one network card per GPU: HDR (200 Gbit/s) or NDR (400 Gbit/s)
    "a100": Gpu(flops=312e12, memory=80e9, hbm=2.0e12, nvlink=300e9, network=25e9),
    "h100": Gpu(flops=989e12, memory=80e9, hbm=3.35e12, nvlink=450e9, network=50e9),
    "h200": Gpu(flops=989e12, memory=141e9, hbm=4.8e12, nvlink=450e9, network=50e9),
}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """A collective operation in groups of devices."""

    collective: str  # all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute
    sent: float  # bytes that one device sends in a step
    size: int  # devices in a group
    per_host: int  # devices of a group that share a host


@dataclasses.dataclass(frozen=True)
class Step:
    """The cost of a train step. `memory` is in bytes on one device; `flops` counts one device's operations."""

    devices: int
    memory: dict[str, int]
    traffic: list[Traffic]
    flops: int
    split: float  # share of the parameters in arrays that are split over devices
    batch_size: int
    half: bool  # whether the products are of bfloat16


def of_step(config: Config, hosts: int, per_host: int) -> Step:
    """Compute the cost of a train step.

    Args:
        config: the experiment; `training.sharding`, `mesh`, `accumulate`, `ema` and `average_with_init` count.
        hosts: number of hosts.
        per_host: number of devices of each host.

    Raises:
        UserError: the model cannot be built, or the batch or the mesh does not fit the number of devices.
    """
    training, devices = config.training, hosts * per_host
    axes = sharding.mesh_axes(training, devices)
    sharding.check_batch_size(training.batch_size, training.accumulate, devices)
    mesh = AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    trainer = Trainer(config, mesh, total_steps=2)  # pyright: ignore[reportArgumentType]
    state = trainer.abstract_state
    params, moments = state["params"], state["optimizer"]
    averaged = bool(training.ema or training.average_with_init)
    copies = {name: tree for name, tree in moments.items() if name != "tx"} if averaged else {}
    rows = training.batch_size // devices // training.accumulate
    part = dataclasses.replace(config, training=dataclasses.replace(training, batch_size=rows))
    model = summary.summarize(part)[-1]
    moved = [leaf for leaf, rate in zip(jax.tree.leaves(params), _rates(trainer, params), strict=True) if rate]
    split, of_device = [leaf for leaf in jax.tree.leaves(params) if _is_split(leaf)], sharding.bytes_per_device
    memory = {
        "parameters": of_device([params, state["batch_stats"]]),
        "parameters, gathered": _bytes(split),
        "gradients": of_device(moved) * (1 if training.accumulate == 1 else 2),  # those of a part, and their sums
        "optimizer": of_device(moments["tx"] if averaged else moments),
        "averages": of_device(copies),
        "activations": model["activations"],
        "batch": of_device(trainer.abstract_batch()),
    }
    half = config.model.dtype == "bfloat16"
    passes = 4 if config.model.remat else 3  # forward; backward, which costs two; the forward pass again with remat
    traffic = _traffic(split, moved, axes, per_host, training.accumulate, half)
    flops = passes * model["flops"] * training.batch_size // devices
    share = _bytes(split) / _bytes(params)
    return Step(devices, memory, traffic, flops, share, training.batch_size, half)


def seconds(step: Step, gpu: Gpu, mfu: float) -> dict[str, float]:
    """Estimate the time of a step, without the time in which it waits for data.

    Args:
        step: what `of_step` returns.
        gpu: the GPU and its connections.
        mfu: share of the peak FLOP/s at which the products run.

    Returns:
        `compute`, `update` (the optimizer reads and writes the state) and `communication`, s. `least`: the step, if
        communication runs at the same time as the products; `most`: the step, if it does not.
    """
    compute = step.flops / (gpu.flops * (1 if step.half else 0.5) * mfu)
    held = sum(step.memory[name] for name in ("parameters", "optimizer", "averages"))
    update = (2 * held + step.memory["gradients"]) / gpu.hbm
    communication = sum(each.sent / bandwidth(each, gpu) for each in step.traffic)
    parts = {"compute": compute, "update": update, "communication": communication}
    return parts | {"least": max(compute, communication) + update, "most": sum(parts.values())}


def bandwidth(traffic: Traffic, gpu: Gpu) -> float:
    """Bytes/s at which a device of a group sends: NVLink in one host; the network cards of the group's devices."""
    if traffic.size <= traffic.per_host:
        return gpu.nvlink
    return min(gpu.nvlink, gpu.network * traffic.per_host)


def ring(collective: str, whole: float, size: int, per_host: int) -> Traffic:
    """What a collective operation sends with a ring algorithm.

    Of an array of N bytes, each of n devices sends 2 (n - 1) / n N bytes in an all-reduce; (n - 1) / n N bytes in an
    all-gather, a reduce-scatter or an all-to-all; and N bytes in a collective-permute.

    Args:
        collective: the kind of the operation.
        whole: N, bytes of the array before a reduce-scatter, or after an all-gather.
        size: n, number of devices of a group.
        per_host: number of devices of a group that share a host.
    """
    share = {"all-reduce": 2 * (size - 1) / size, "collective-permute": 1}.get(collective, (size - 1) / size)
    return Traffic(collective, share * whole, size, min(size, per_host))


def _traffic(split: list, moved: list, axes: dict[str, int], per_host: int, parts: int, half: bool) -> list[Traffic]:
    """The collectives of a step. Each part of the batch sums its gradient; XLA gathers the parameters only once.

    With products of bfloat16, the gradients are summed in bfloat16; few are not, such as those of the norms. Devices
    have the order of the mesh: those of one `fsdp` group are neighbours.
    """
    data, fsdp = axes["data"], axes.get("fsdp", 1)
    everywhere, whole = data * fsdp, _bytes(split)
    summed, copied = (
        parts * _bytes([leaf for leaf in moved if _is_split(leaf) is is_split]) / (2 if half else 1)
        for is_split in (True, False)
    )
    found = [
        ring("all-gather", whole, fsdp, per_host),
        ring("reduce-scatter", summed, fsdp, per_host),
        ring("all-reduce", summed / fsdp, data, max(per_host // fsdp, 1)),
        ring("all-reduce", copied, everywhere, per_host),
    ]
    return [each for each in found if each.sent]


def _rates(trainer: Trainer, params: Any) -> list:
    """The factor on the learning rate of every parameter; 0: no gradient is computed."""
    return [1] * len(jax.tree.leaves(params)) if trainer.factors is None else jax.tree.leaves(trainer.factors)


def _is_split(leaf: jax.ShapeDtypeStruct) -> bool:
    return leaf.sharding.shard_shape(leaf.shape) != leaf.shape  # pyright: ignore[reportOptionalMemberAccess]


def _bytes(tree: Any) -> int:
    """Bytes of whole arrays."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
