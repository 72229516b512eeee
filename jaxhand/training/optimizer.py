"""The optimizer and its learning-rate schedule from the config."""

import jax
import jax.numpy as jnp
import optax

from jaxhand.config import OptimizerConfig, SchedulerConfig


def schedule(optimizer: OptimizerConfig, scheduler: SchedulerConfig, total_steps: int) -> optax.Schedule:
    """Step → learning rate: a linear warm-up, then the named course down to `eta_min` at `total_steps`."""
    warmup = min(scheduler.warmup_steps, total_steps - 1)
    if scheduler.name == "constant":
        start = 0.0 if warmup else optimizer.learning_rate
        return optax.linear_schedule(start, optimizer.learning_rate, max(warmup, 1))
    return optax.warmup_cosine_decay_schedule(
        0.0, optimizer.learning_rate, warmup, total_steps, end_value=scheduler.eta_min
    )


def build(config: OptimizerConfig, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW, or Muon for the matrices and Adam for everything else.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes every step of a matrix orthogonal; the
    others, vectors and matrices a joint, take `adam_rate` times its learning rate. Vectors are never decayed.
    """
    if config.name == "muon":
        update = by_shape(
            optax.contrib.muon(
                learning_rate,
                beta=config.momentum,
                weight_decay=config.weight_decay,
                adam_b1=config.b1,
                adam_b2=config.b2,
                adam_learning_rate=lambda step: config.adam_rate * learning_rate(step),
                muon_weight_dimension_numbers=_matrices,
                ns_coeffs=(NEWTON_SCHULZ,)
                * 5,  # a table of coefficients is scanned, a single row unrolled: slow to compile
            )
        )
    else:
        update = optax.adamw(
            learning_rate,
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(_decays, params),
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update) if config.clip_norm > 0 else update


def _decays(path, leaf) -> bool:
    """Matrices do; scales and biases do not, those of a stack of blocks, which look like matrices, neither."""
    return leaf.ndim > 1 and path[-1].key not in ("scale", "bias")


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic


def by_shape(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Run a transformation on all leaves of a shape at once, stacked along a new first axis.

    The compiled program then grows with the number of shapes and not of parameters.
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


def _unstack(groups: dict, tree):
    """The tree whose leaves `_stack` has put together."""
    rows = {kind: iter(list(group)) for kind, group in groups.items()}
    return jax.tree.map_with_path(lambda path, leaf: next(rows[_kind(path, leaf)]), tree)


def _kind(path, leaf) -> str:
    """The shape of a leaf, marked where it is several vectors and not a matrix."""
    shape = "x".join(map(str, leaf.shape))
    return shape if _decays(path, leaf) or leaf.ndim < 2 else f"vectors {shape}"


def _matrices(stacked: dict) -> dict:
    """What is for Muon among stacked leaves: the matrices, (n, …, rows, columns), each for itself."""

    def axes(kind: str):
        last = kind.count("x")  # the first axis is the stack's
        is_matrix = last > 0 and not kind.startswith("vectors")
        return optax.contrib.MuonDimensionNumbers(reduction_axis=last, output_axis=last + 1) if is_matrix else None

    return {kind: axes(kind) for kind in stacked}
