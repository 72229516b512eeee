"""One mesh over all devices of all processes. Batches are split over the devices; each has a copy of the state."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxhand.config import ConfigError

# Arrays of a batch that no model needs; they are not copied to the devices.
HOST_ONLY = ("index", "K_image", "rotation")


def make_mesh() -> Mesh:
    """Make a mesh of all devices of all processes along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(device_mesh: Mesh) -> NamedSharding:
    """Sharding with a copy on every device."""
    return NamedSharding(device_mesh, PartitionSpec())


def split(device_mesh: Mesh) -> NamedSharding:
    """Sharding that splits the leading axis over the devices."""
    return NamedSharding(device_mesh, PartitionSpec("data"))


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


def check_batch_size(batch_size: int) -> None:
    """Raise ConfigError if the batch size is not a multiple of the number of devices."""
    devices = jax.device_count()
    if batch_size % devices:
        nearest = max(round(batch_size / devices), 1) * devices
        raise ConfigError(f"training.batch_size {batch_size} cannot be split over {devices} devices; try {nearest}")
