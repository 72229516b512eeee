"""One named mesh over all devices of all processes: batches are split over it, the state is on every device."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxhand.config import ConfigError


def make_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def to_global(batch: dict, mesh: Mesh) -> dict:
    """This process's rows of a batch → global arrays whose leading axis is split over all devices."""
    return {key: jax.make_array_from_process_local_data(split(mesh), value) for key, value in batch.items()}


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a split array that live on this process, in order: the inverse of `to_global`."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def check_batch_size(batch_size: int) -> None:
    """Raise ConfigError where the devices cannot share a batch evenly."""
    devices = jax.device_count()
    if batch_size % devices:
        nearest = max(round(batch_size / devices), 1) * devices
        raise ConfigError(f"training.batch_size {batch_size} cannot be split over {devices} devices: try {nearest}")
