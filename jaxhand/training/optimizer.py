"""The optimizer and its learning-rate schedule from the config."""

import jax
import optax

from jaxhand.config import OptimizerConfig, SchedulerConfig


def schedule(optimizer: OptimizerConfig, scheduler: SchedulerConfig, total_steps: int) -> optax.Schedule:
    """Step → learning rate: a linear warm-up, then the named course down to `eta_min` at `total_steps`."""
    warmup = min(scheduler.warmup_steps, total_steps - 1)
    if scheduler.name == "constant":
        return optax.linear_schedule(0.0, optimizer.learning_rate, warmup)
    return optax.warmup_cosine_decay_schedule(
        0.0, optimizer.learning_rate, warmup, total_steps, end_value=scheduler.eta_min
    )


def build(optimizer: OptimizerConfig, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; vectors (biases, gains) are not decayed."""
    adamw = optax.adamw(
        learning_rate,
        b1=optimizer.b1,
        b2=optimizer.b2,
        weight_decay=optimizer.weight_decay,
        mask=_is_matrix,
    )
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), adamw) if optimizer.clip_norm > 0 else adamw


def _is_matrix(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
