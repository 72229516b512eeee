"""The training loss: terms that are pure functions of predictions and batch, one number a sample each."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxhand.config import LossConfig
from jaxhand.training import mesh_losses
from jaxhand.training.mesh_losses import from_wrist

JOINT_TERMS = ("joints_3d", "joints_2d", "depth", "distance", "size", "guesses")


def terms(predictions: dict, batch: dict, names: Sequence[str] = JOINT_TERMS, *, balanced: bool = False) -> dict:
    """Terms of the loss, unweighted; 0 for a hand that lacks the labels of a term, or what the term compares.

    Args:
        predictions: what a model returns; `guesses_3d` (B,G,21,3), `guesses_2d` (before the final joints) and
            `root_depth` are optional.
        batch: `keypoints_3d` (B,21,3) mm, `keypoints_2d` (B,21,2) px, `joint_valid` and `joint_valid_2d` (B,21),
            `has_depth` (B,), `image`; for the terms of meshes their labels.
        names: which terms, a model's `loss_terms`.
        balanced: enlarge the terms of joints and `vertices` so that the mean over the batch is the mean over the hands
            that have such labels: hands labelled in 2D only do not water down what is learned in 3D.

    Returns:
        name → (B,), the names of `LossConfig`'s fields.
    """
    found = {}
    if set(names) & set(JOINT_TERMS):
        found |= _joint_family(predictions, batch, balanced)
    if "vertices" in names:
        apart = length(from_wrist(predictions, "vertices") - from_wrist(batch, "vertices")).mean(-1) / 100
        share = _share(batch["has_vertices"][:, None]) if balanced else 1.0
        found["vertices"] = apart * batch["has_vertices"] * batch["joint_valid"][:, 0] * share
    if "w_2d" in names:
        found |= mesh_losses.fusion_terms(predictions, batch)
    if "betas" in names:
        found |= mesh_losses.hamer_terms(predictions, batch)
    nothing = jnp.zeros(len(batch["image"]))
    return {name: found.get(name, nothing) for name in names}


def reduced(losses: dict, weights: LossConfig) -> dict:
    """Every term of a batch as one number, by `weights.reduction`, and the `loss`, their weighted sum."""
    if weights.reduction == "mean":
        return {name: value.mean() for name, value in (losses | {"loss": total(losses, weights)}).items()}
    sums = {name: value.mean() if name in mesh_losses.MEANS else value.sum() for name, value in losses.items()}
    return sums | {"loss": total(sums, weights)}


def total(losses: dict, weights: LossConfig) -> jnp.ndarray:
    """The weighted sum of the terms."""
    return sum(getattr(weights, name) * value for name, value in losses.items())


def masked_mean(values, mask):
    """Mean over the last axis of what the mask lets through; 0 where it lets nothing."""
    return (values * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1)


def _share(valid):
    """1 / (share of the hands with a label) of every hand (B,): 1 where all have one."""
    return len(valid) / jnp.maximum((valid > 0).any(-1).sum(), 1)


def _joint_family(predictions: dict, batch: dict, balanced: bool) -> dict:
    true_3d, valid = batch["keypoints_3d"], batch["joint_valid"]
    share_3d, share_2d = (_share(batch[key]) if balanced else 1.0 for key in ("joint_valid", "joint_valid_2d"))

    def joint_terms(joints, pixels):
        found = _joint_terms(joints, pixels, batch)
        return {name: value * (share_2d if name == "joints_2d" else share_3d) for name, value in found.items()}

    losses = joint_terms(predictions["keypoints_3d"], predictions["keypoints_2d"])
    true_depth = masked_mean(true_3d[..., 2], valid)  # (B,)
    depth = masked_mean(predictions["keypoints_3d"][..., 2], valid)
    losses["distance"] = jnp.abs(depth - true_depth) / 100 * batch["has_depth"] * share_3d
    if "root_depth" in predictions:
        known = jnp.where(valid.any(-1), true_depth, predictions["root_depth"])  # without labels there is no error
        losses["size"] = jnp.abs(jnp.log(predictions["root_depth"] / jnp.maximum(known, 1.0))) * share_3d
    if "guesses_3d" in predictions:
        guesses = zip(*(jnp.moveaxis(predictions[name], 1, 0) for name in ("guesses_3d", "guesses_2d")))
        of_guesses = (sum(joint_terms(*guess).values()) for guess in guesses)
        losses["guesses"] = sum(of_guesses, jnp.zeros_like(true_depth))
    return losses


def _joint_terms(joints, pixels, batch) -> dict:
    true_3d, valid, half_side = batch["keypoints_3d"], batch["joint_valid"], batch["image"].shape[1] / 2
    from_wrist = (joints - joints[:, :1]) - (true_3d - true_3d[:, :1])  # (B, 21, 3)
    depth, true_depth = joints[..., 2], true_3d[..., 2]
    depth_error = (depth - masked_mean(depth, valid)[:, None]) - (true_depth - masked_mean(true_depth, valid)[:, None])
    return {
        "joints_3d": masked_mean(length(from_wrist), valid * valid[:, :1]) / 100,
        "joints_2d": masked_mean(jnp.abs(pixels - batch["keypoints_2d"]).mean(-1), batch["joint_valid_2d"]) / half_side,
        "depth": masked_mean(jnp.abs(depth_error), valid) / 100,
    }


def length(vectors):
    """Euclidean length over the last axis, with a gradient at 0."""
    return jnp.sqrt((vectors**2).sum(-1) + 1e-12)
