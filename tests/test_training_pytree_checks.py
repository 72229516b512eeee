"""Trees of arrays that are compared: which leaf differs, and how."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.training import pytree_checks

WANTED = {"a": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)}, "b": np.zeros(4, np.int32)}


def changed(**leaves):
    return {"a": dict(WANTED["a"]), "b": WANTED["b"]} | leaves


def test_differences_are_described():
    mismatch = pytree_checks.mismatch
    assert mismatch("params", WANTED, WANTED) is None
    other = changed(b=np.zeros((4, 1), np.int32))
    assert mismatch("params", other, WANTED) == "params/b: saved (4,1), the model needs (4,)"
    other = changed(b=np.zeros(4, np.float32))
    assert mismatch("params", other, WANTED) == "params/b: saved float32, the model needs int32"
    other = changed(c=np.zeros((5,)))
    assert mismatch("params", other, WANTED) == "params/c: saved (5,), but not in the model"
    missing = {"b": WANTED["b"]}
    assert mismatch("x", missing, WANTED) == "x/a/bias: not saved, the model needs (3,) (and 1 more)"
    assert mismatch("x", missing, WANTED, partial=True) is None
    assert mismatch("x", changed(c=np.zeros(5)), WANTED, partial=True) == "x/c: saved (5,), but not in the model"


def test_how_a_leaf_is_stored():
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    other = jax.sharding.SingleDeviceSharding(jax.local_devices()[-1])
    plain = pytree_checks.stored(np.zeros((2, 3), np.float32))
    assert (plain.shape, plain.dtype, plain.sharding) == ((2, 3), np.float32, device)
    placed = jax.device_put(jnp.zeros(4), other)
    assert pytree_checks.stored(placed).sharding == other
    assert pytree_checks.stored(placed, device).sharding == device
    key = pytree_checks.stored(jax.eval_shape(lambda: jax.random.key(0)))
    assert key.shape == (2,) and key.dtype == np.uint32


def test_trees_are_laid_over_each_other():
    tree = {"a": {"x": 1, "y": 2}, "b": 3}
    assert pytree_checks.overlaid(tree, {"a": {"y": 5}, "c": 6}) == {"a": {"x": 1, "y": 5}, "b": 3, "c": 6}
    assert tree == {"a": {"x": 1, "y": 2}, "b": 3}


def test_parts_are_named_by_two_steps_of_their_path():
    wanted = {"a": {"x": {"k": 1, "l": 2}, "y": 3}, "b": 4}
    text = pytree_checks.parts({"a": {"x": {"k": 1, "l": 2}}}, wanted)
    assert text == "2 of 4 parameters are loaded (a/x); new: a/y, b"


def test_numbers_are_keys_of_lists():
    assert pytree_checks.int_keys({"a": {"0": 1, "10": {"x1": 2}}}) == {"a": {0: 1, 10: {"x1": 2}}}
    assert pytree_checks.int_keys([1]) == [1]
