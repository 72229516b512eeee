"""One mesh over all devices of all processes, and the rule by which batches and the state are split over it.

A batch is split over all devices. The state is copied to every device, or, on a mesh with an axis `fsdp`, its large
arrays are split along that axis (fully sharded data parallelism: Rajbhandari et al. 2020, "ZeRO").
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxhand.config import ConfigError, TrainingConfig

# Arrays of a batch that no model needs; they are not copied to the devices.
HOST_ONLY = ("index", "K_image", "rotation")

SPLIT_FROM = (
    2**14
)  # number of elements from which an array of the state is split; splitting a smaller one saves nothing


def make_mesh(training: TrainingConfig | None = None) -> Mesh:
    """Make a mesh of all devices of all processes: along one axis `data`, or along `data` and `fsdp`.

    Args:
        training: `sharding` decides whether there is an axis `fsdp`, `mesh` the lengths of the axes; None: one axis.

    Raises:
        ConfigError: the lengths do not multiply to the number of devices.
    """
    axes = mesh_axes(training or TrainingConfig(), jax.device_count())
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def mesh_axes(training: TrainingConfig, devices: int) -> dict[str, int]:
    """The lengths of the axes of a mesh of so many devices: `data`, and with `training.sharding=fsdp` also `fsdp`.

    Raises:
        ConfigError: the lengths do not multiply to the number of devices.
    """
    data, fsdp = training.mesh.data, training.mesh.fsdp if training.sharding == "fsdp" else 1
    if fsdp < 0:
        fsdp = devices // max(data, 1)
    if data < 0:
        data = devices // max(fsdp, 1)
    if data * fsdp != devices:
        lengths = f"training.mesh.data {data} times fsdp {fsdp}"
        raise ConfigError(f"{lengths} must be the number of devices, {devices}; -1 stands for the devices that remain")
    return {"data": data} | ({"fsdp": fsdp} if training.sharding == "fsdp" else {})


def replicated(device_mesh: Mesh) -> NamedSharding:
    """Sharding with a copy on every device."""
    return NamedSharding(device_mesh, PartitionSpec())


def split(device_mesh: Mesh) -> NamedSharding:
    """Sharding that splits the leading axis over all devices."""
    return NamedSharding(device_mesh, PartitionSpec(device_mesh.axis_names))


def split_parts(device_mesh: Mesh) -> NamedSharding:
    """Sharding of a batch (A, B / A, …) in A parts, which splits the rows of each part over all devices."""
    return NamedSharding(device_mesh, PartitionSpec(None, device_mesh.axis_names))


def of_state(device_mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Sharding of an array of the state.

    On a mesh with an axis `fsdp`, an array of at least `SPLIT_FROM` elements is split along its longest axis whose
    length is a multiple of the size of `fsdp`. Every other array is copied to every device.
    """
    parts = dict(device_mesh.shape).get("fsdp", 1)
    fitting = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or math.prod(shape) < SPLIT_FROM or not fitting:
        return replicated(device_mesh)
    longest = max(fitting, key=lambda axis: shape[axis])
    return NamedSharding(device_mesh, PartitionSpec(*[None] * longest, "fsdp"))


def abstract_state(device_mesh: Mesh, shapes: Any) -> Any:
    """Add the sharding of `of_state` to a tree of shapes and dtypes."""
    placed = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=of_state(device_mesh, leaf.shape))  # noqa: E731
    return jax.tree.map(placed, shapes)


def shardings(tree: Any) -> Any:
    """The sharding of every array of a tree."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def gathered(device_mesh: Mesh, params: Any) -> Any:
    """Copy split arrays whole to every device; on a mesh without an axis `fsdp`, no array is split.

    Without this, XLA may split activations along channels, which costs far more communication.
    """
    return jax.lax.with_sharding_constraint(params, replicated(device_mesh)) if _splits(device_mesh) else params


def split_again(device_mesh: Mesh, gradient: Any) -> Any:
    """Split a gradient with respect to gathered arrays as these arrays are, as soon as it is summed."""
    if not _splits(device_mesh):
        return gradient
    return jax.tree.map(
        lambda leaf: jax.lax.with_sharding_constraint(leaf, of_state(device_mesh, leaf.shape)), gradient
    )


def _splits(device_mesh: Mesh) -> bool:
    return "fsdp" in device_mesh.axis_names


def bytes_per_device(tree: Any) -> int:
    """Number of bytes of a tree of arrays, or of their shapes with shardings, on one device."""
    shard = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize  # noqa: E731
    return sum(map(shard, jax.tree.leaves(tree)))


def to_global(batch: Mapping, device_mesh: Mesh) -> dict:
    """Convert this process's rows of a host batch to global arrays, whose leading axis is split over all devices.

    Args:
        batch: arrays with leading axis B / (number of processes). The arrays in `HOST_ONLY` are left out.
        device_mesh: the devices.
    """
    rows = split(device_mesh)
    arrays = {key: value for key, value in batch.items() if key not in HOST_ONLY}
    return {key: jax.make_array_from_process_local_data(rows, value) for key, value in arrays.items()}


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a split array that are on this process, in their order: the inverse of `to_global`."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def check_batch_size(batch_size: int, parts: int = 1, devices: int = 0) -> None:
    """Raise ConfigError if the batch size is not a multiple of the number of devices times that of the parts.

    Args:
        batch_size: rows on all devices together.
        parts: `training.accumulate`.
        devices: number of devices; 0: those of this run.
    """
    devices = devices or jax.device_count()
    if batch_size % (devices * parts):
        nearest = max(round(batch_size / devices / parts), 1) * devices * parts
        over = f"{devices} devices" if parts == 1 else f"{devices} devices in {parts} parts (training.accumulate)"
        raise ConfigError(f"training.batch_size {batch_size} cannot be split over {over}; try {nearest}")
