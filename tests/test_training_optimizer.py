"""The optimizer: schedules, and Muon run by shape against Muon run leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxhand.config import ConfigError, OptimizerConfig, SchedulerConfig
from jaxhand.training import optimizer


def test_cosine_warms_up_and_ends_at_eta_min():
    rate = optimizer.schedule(OptimizerConfig(learning_rate=1e-2), SchedulerConfig(warmup_steps=10, eta_min=1e-4), 100)
    assert float(rate(0)) == 0
    assert float(rate(10)) == pytest.approx(1e-2)
    assert float(rate(55)) == pytest.approx((1e-2 + 1e-4) / 2)
    assert float(rate(100)) == pytest.approx(1e-4)


def test_constant_stays_after_the_warm_up():
    rate = optimizer.schedule(OptimizerConfig(learning_rate=1e-2), SchedulerConfig("constant", warmup_steps=10), 100)
    assert [float(rate(step)) for step in (5, 10, 99)] == pytest.approx([5e-3, 1e-2, 1e-2])


@pytest.mark.parametrize("name", ["cosine", "constant"])
def test_without_a_warm_up_the_first_step_has_the_whole_rate(name):
    rate = optimizer.schedule(OptimizerConfig(learning_rate=1.0), SchedulerConfig(name, warmup_steps=0), 100)
    assert float(rate(0)) == pytest.approx(1.0)


def test_warm_up_is_cut_to_a_short_run():
    rate = optimizer.schedule(OptimizerConfig(learning_rate=1.0), SchedulerConfig(warmup_steps=100), 3)
    assert float(rate(2)) == pytest.approx(1.0)


def params_and_gradients():
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 4), "b": {"w": (6, 4), "bias": (4,)}, "c": (3, 3), "d": (4,)}
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    is_shape = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    return tuple(jax.tree.map(draw, shapes, is_leaf=is_shape) for _ in range(2))


def test_muon_by_shape_equals_muon_leaf_by_leaf():
    params, gradients = params_and_gradients()
    config = OptimizerConfig(name="muon", learning_rate=0.1, weight_decay=0.01, clip_norm=0)
    ours = optimizer.build(config, optax.constant_schedule(0.1))
    theirs = optax.contrib.muon(
        0.1,
        beta=config.momentum,
        weight_decay=0.01,
        adam_b1=config.b1,
        adam_b2=config.b2,
        adam_learning_rate=0.1 * config.adam_rate,
        ns_coeffs=((3.4445, -4.7750, 2.0315),) * 5,  # Jordan's quintic
    )
    for tx in (ours, theirs):
        new, state = params, tx.init(params)
        for _ in range(3):
            updates, state = tx.update(gradients, state, new)
            new = optax.apply_updates(new, updates)
        if tx is ours:
            kept = new
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), kept, new)


def test_a_step_of_muon_is_nearly_orthogonal():
    params, gradients = params_and_gradients()
    tx = optimizer.build(OptimizerConfig(name="muon", weight_decay=0), optax.constant_schedule(1.0))
    updates, _ = tx.update(gradients, tx.init(params), params)
    singular = np.linalg.svd(np.asarray(updates["c"]), compute_uv=False)
    assert singular.min() > 0.5 and singular.max() < 1.5


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_vectors_are_not_decayed(name):
    params, gradients = params_and_gradients()
    nothing = jax.tree.map(jnp.zeros_like, gradients)
    tx = optimizer.build(OptimizerConfig(name=name, weight_decay=0.1), optax.constant_schedule(0.1))
    updates, _ = tx.update(nothing, tx.init(params), params)
    assert np.abs(updates["a"]).max() > 0
    assert np.abs(updates["d"]).max() == np.abs(updates["b"]["bias"]).max() == 0


def test_clipping_bounds_the_gradient():
    params, gradients = params_and_gradients()
    large = jax.tree.map(lambda leaf: 1e6 * leaf, gradients)
    tx = optimizer.build(OptimizerConfig(clip_norm=1.0, weight_decay=0), optax.constant_schedule(1.0))
    for given in (gradients, large):  # Adam's step does not depend on the scale of the gradient; its second moment does
        _, state = tx.update(given, tx.init(params), params)
        second = optax.tree_utils.tree_get(state, "nu")
        assert sum(float(leaf.sum()) for leaf in jax.tree.leaves(second)) <= 0.0101


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_stack_of_blocks_moves_as_its_blocks_do(name):
    """A scanned stack has its blocks' parameters along a first axis: its stacked scales are not a matrix."""
    rng = np.random.default_rng(1)
    draw = lambda: {
        "kernel": rng.normal(size=(6, 4)).astype(np.float32),
        "scale": rng.normal(size=4).astype(np.float32),
    }  # noqa: E731
    config = OptimizerConfig(name=name, weight_decay=0.1, clip_norm=0)

    def moved(params, gradients):
        tx = optimizer.build(config, optax.constant_schedule(0.1))
        return tx.update(gradients, tx.init(params), params)[0]

    params, gradients = ([draw() for _ in range(3)] for _ in range(2))
    apart = moved(
        {str(i): block for i, block in enumerate(params)}, {str(i): block for i, block in enumerate(gradients)}
    )
    stack = lambda blocks: jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)  # noqa: E731
    together = moved(stack(params), stack(gradients))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, stack([apart[str(i)] for i in range(3)])
    )


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_rates_scale_updates_and_freeze(name):
    """A factor scales what a parameter would move by; with 0 it stays to the bit, whatever its gradient and decay."""
    params, gradients = params_and_gradients()
    config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.01, clip_norm=0)
    factors = optimizer.rate_factors({"*": 0.5, "b/*": 0, "b/bias": 1}, params)
    assert factors == {"a": 0.5, "b": {"w": 0, "bias": 1}, "c": 0.5, "d": 0.5}
    whole, some = (optimizer.build(config, optax.constant_schedule(0.1), chosen) for chosen in (None, factors))
    full, _ = whole.update(gradients, whole.init(params), params)
    state = some.init(params)
    scaled, _ = some.update(gradients, state, params)
    for factor, one, other in zip(*(jax.tree.leaves(tree) for tree in (factors, full, scaled))):
        np.testing.assert_allclose(other, factor * one, rtol=1e-4, atol=1e-6)
    assert not np.any(scaled["b"]["w"])
    assert sum(leaf.shape == (6, 4) for leaf in jax.tree.leaves(state)) in (0, 2)  # moments of "a" alone


def test_frozen_parameters_do_not_count_in_the_norm():
    params, gradients = params_and_gradients()
    config = OptimizerConfig(clip_norm=1.0, b1=0.0, b2=0.0, weight_decay=0.0)
    factors = optimizer.rate_factors({"*": 0, "d": 1}, params)
    small = gradients | {"d": 1e-3 * gradients["d"]}
    tx = optimizer.build(config, optax.constant_schedule(0.1), factors)
    _, state = tx.update(small, tx.init(params), params)
    [moment] = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (4,)][:1]
    np.testing.assert_allclose(moment, small["d"], rtol=1e-5)


def test_a_pattern_without_parameters_is_an_error():
    params, _ = params_and_gradients()
    with pytest.raises(ConfigError, match="optimizer.rates: no parameter matches 'backbone/\\*'; .* a, b, c, d"):
        optimizer.rate_factors({"backbone/*": 0}, params)


def test_a_network_that_is_frozen_whole_is_an_error():
    params, _ = params_and_gradients()
    with pytest.raises(ConfigError, match="optimizer.rates: all parameters are frozen"):
        optimizer.rate_factors({"*": 1, "b/*": 0, "[acd]": 0}, params)


def test_factors_of_parameters():
    """A step is as long as its factor; a parameter with factor 0 does not move and has no gradient."""
    params, gradients = params_and_gradients()
    factors = {"a": 0.5, "b": {"w": 1.0, "bias": 1.0}, "c": 0.0, "d": 1.0}
    config = OptimizerConfig(weight_decay=0, clip_norm=0)
    plain, scaled = (optimizer.build(config, optax.constant_schedule(0.1), chosen) for chosen in (None, factors))
    whole, part = (tx.update(gradients, tx.init(params), params)[0] for tx in (plain, scaled))
    jax.tree.map(lambda factor, a, b: np.testing.assert_allclose(factor * a, b, rtol=1e-6), factors, whole, part)
    assert optimizer.without_frozen(params, None) is params
    loss = lambda params: sum(leaf.sum() for leaf in jax.tree.leaves(optimizer.without_frozen(params, factors)))  # noqa: E731
    found = jax.grad(loss)(params)
    assert not found["c"].any() and (found["a"] == 1).all() and (found["b"]["bias"] == 1).all()
