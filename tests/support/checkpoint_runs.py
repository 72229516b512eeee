"""Small runs of checkpoints for the tests of saving, restoring and damage."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxhand.config import Config, to_dict
from jaxhand.training.checkpoint import Checkpoints


def make_trees(seed=0, width=4):
    params = {
        "encoder": {"kernel": jax.random.normal(jax.random.key(seed), (8, width)), "bias": jnp.zeros((width,))},
        "layers": {0: {"kernel": jnp.full((2, 2), seed, jnp.float32)}, 1: {"kernel": jnp.ones((2, 2))}},
    }
    rest = {"mean": jnp.full((3,), seed, jnp.float32), "rng": jax.random.key(seed)}
    return {"params": params, "rest": rest, "optimizer": optax.adamw(1e-3).init(params)}


def abstract_of(named, sharding=None):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), named)


def save(checkpoints, step, avg_metric, named=None, **meta):
    meta = {"epoch": step // 10, "config": to_dict(Config())} | meta
    named = make_trees(step) if named is None else named
    return checkpoints.save(step, **named, data={"next_index": step}, meta=meta, avg_metric=avg_metric)


def saved_run(workdir, metrics, keep_every_steps=0):
    """A closed run with the steps and metrics of a dict."""
    with contextlib.closing(Checkpoints(workdir, keep_every_steps=keep_every_steps)) as checkpoints:
        for step, metric in metrics.items():
            save(checkpoints, step, metric)
    return workdir / "checkpoints"


def reopen(workdir, warnings=None, keep_every_steps=0):
    warn = pytest.fail if warnings is None else warnings.append
    return contextlib.closing(Checkpoints(workdir, keep_every_steps=keep_every_steps, warn=warn))


def assert_same(restored, wanted):
    def numbers(leaf):
        return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    assert jax.tree.structure(restored) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(numbers(a), numbers(b)), restored, wanted)


def steps_on_disk(folder):
    return sorted(int(path.name) for path in folder.iterdir())
