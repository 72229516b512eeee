"""The optimizer and its learning-rate schedule from the config."""

from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
import optax

from jaxhand.config import ConfigError, OptimizerConfig, SchedulerConfig


def schedule(optimizer: OptimizerConfig, scheduler: SchedulerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step: a linear warm-up, then constant, or a cosine down to `eta_min`.

    Args:
        optimizer: `learning_rate`, the highest.
        scheduler: name, warm-up and end.
        total_steps: step at which the cosine ends.
    """
    warmup = min(scheduler.warmup_steps, total_steps - 1)
    if scheduler.name == "constant":
        start = 0.0 if warmup else optimizer.learning_rate
        return optax.linear_schedule(start, optimizer.learning_rate, max(warmup, 1))
    return optax.warmup_cosine_decay_schedule(
        0.0, optimizer.learning_rate, warmup, total_steps, end_value=scheduler.eta_min
    )


def build(
    config: OptimizerConfig, learning_rate: optax.Schedule, factors: dict | None = None
) -> optax.GradientTransformation:
    """Return the optimizer: it clips the gradient by its global norm, then applies AdamW, or Muon together with Adam.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes every update of a matrix orthogonal. All
    other parameters are updated by Adam with `adam_rate` times the learning rate. Vectors have no weight decay.

    Args:
        config: the optimizer.
        learning_rate: the schedule.
        factors: what `rate_factors` returns. Frozen parameters do not count in the global norm and have no moments.
    """
    update = _update(config, learning_rate)
    if config.clip_norm > 0:
        update = optax.chain(optax.clip_by_global_norm(config.clip_norm), update)
    if factors is None:
        return update
    scale = lambda factor, leaf: factor * leaf if factor else jnp.zeros_like(leaf)  # noqa: E731
    scaled = optax.stateless(lambda updates, _: jax.tree.map(scale, factors, updates))
    return optax.chain(optax.masked(update, jax.tree.map(bool, factors)), scaled)


def _update(config: OptimizerConfig, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    if config.name == "muon":
        return by_shape(
            optax.contrib.muon(
                learning_rate,
                beta=config.momentum,
                weight_decay=config.weight_decay,
                adam_b1=config.b1,
                adam_b2=config.b2,
                adam_learning_rate=lambda step: config.adam_rate * learning_rate(step),
                muon_weight_dimension_numbers=_matrices,
                # Five rows, which Optax loops over with `scan`. It unrolls a single row, which is slow to compile.
                ns_coeffs=(NEWTON_SCHULZ,) * 5,
            )
        )
    return optax.adamw(
        learning_rate,
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree_util.tree_map_with_path(_decays, params),
    )


def rate_factors(rates: dict[str, float], params: dict) -> dict:
    """The factor on the learning rate of every parameter.

    Args:
        rates: pattern → factor. A pattern is of `fnmatch`, for a path such as "backbone/stages/5/0/expand/kernel"; `*`
            also matches slashes. Of all that match, the last one counts.
        params: nested dict of arrays or of their shapes.

    Returns:
        A nested dict of the same keys; 1 where no pattern matches.

    Raises:
        ConfigError: a pattern matches no parameter, or all parameters are frozen.
    """
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]
    for pattern in rates:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = ", ".join(sorted({name.partition("/")[0] for name in names}))
            raise ConfigError(f"optimizer.rates: no parameter matches {pattern!r}; their paths begin with {parts}")
    latest = list(reversed(rates.items()))
    found = [next((rate for pattern, rate in latest if fnmatchcase(name, pattern)), 1.0) for name in names]
    if not any(found):
        raise ConfigError("optimizer.rates: all parameters are frozen, so nothing would be learned; set a rate above 0")
    return jax.tree.unflatten(jax.tree.structure(params), found)


def without_frozen(params: dict, factors: dict | None) -> dict:
    """The parameters, where those with factor 0 pass no gradient on, so that none is computed for them."""
    if factors is None:
        return params
    return jax.tree.map(lambda factor, leaf: leaf if factor else jax.lax.stop_gradient(leaf), factors, params)


def _decays(path, leaf) -> bool:
    """Whether a parameter has weight decay: only matrices. Stacked (depth, width) scales and biases are excluded."""
    return leaf.ndim > 1 and path[-1].key not in ("scale", "bias")


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan's quintic


def by_shape(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Run a transformation on all leaves of the same shape at once, stacked along a new first axis.

    The size of the compiled program then depends on the number of shapes, not on the number of parameters.
    """

    def update(updates, state, params=None):
        new, state = inner.update(_stack(updates), state, None if params is None else _stack(params))
        return _unstack(new, updates), state

    return optax.GradientTransformation(lambda params: inner.init(_stack(params)), update)


def _stack(tree) -> dict:
    """`{"128x64": (n, 128, 64)}` of all leaves of a kind."""
    groups = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        groups.setdefault(_kind(path, leaf), []).append(leaf)
    return {kind: jnp.stack(leaves) for kind, leaves in groups.items()}


def _unstack(groups, tree):
    """Undo `_stack`: returns the tree of the original leaves."""
    rows = {kind: iter(list(group)) for kind, group in groups.items()}
    return jax.tree.map_with_path(lambda path, leaf: next(rows[_kind(path, leaf)]), tree)


def _kind(path, leaf) -> str:
    """The shape of a leaf as text, marked where the leaf is several vectors and not a matrix."""
    shape = "x".join(map(str, leaf.shape))
    return shape if _decays(path, leaf) or leaf.ndim < 2 else f"vectors {shape}"


def _matrices(stacked) -> dict:
    """The stacked leaves that Muon updates: matrices (n, …, rows, columns), each by itself."""

    def axes(kind: str):
        last = kind.count("x")  # the first axis is the stack's
        is_matrix = last > 0 and not kind.startswith("vectors")
        return optax.contrib.MuonDimensionNumbers(reduction_axis=last, output_axis=last + 1) if is_matrix else None

    return {kind: axes(kind) for kind in stacked}
