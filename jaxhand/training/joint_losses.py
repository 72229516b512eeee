"""Loss terms of joints and vertices. Each term is a function (predictions, batch) → (B,): a mean over a hand's points.

Each term is multiplied by `label_scale`, see `losses.label_scales`.

Predictions: `keypoints_3d` (B,21,3) mm, `keypoints_2d` (B,21,2) px. Some terms also need `root_depth` (B,) mm,
`vertices` (B,V,3) mm, or the intermediate predictions `guesses_3d` (B,G,21,3) mm and `guesses_2d` (B,G,21,2) px.
Batch: labels with the same names as the predictions, `joint_valid` and `joint_valid_2d` (B,21), `has_depth` (B,),
`has_vertices` (B,), and `image` (B,h,w,3), whose side is the unit of 2D errors.
"""

import jax
import jax.numpy as jnp

MASKS = ("joint_valid", "joint_valid_2d", "has_depth", "has_vertices", "has_pose")  # masks of the labels of a batch


def joints_3d(predictions: dict, batch: dict) -> jax.Array:
    """Mean distance to the true joint, both relative to the wrist, in units of 100 mm; 0 without a labelled wrist."""
    distance = length(from_wrist(predictions, "keypoints_3d") - from_wrist(batch, "keypoints_3d"))  # (B, 21)
    valid = batch["joint_valid"]
    return masked_mean(distance, valid * valid[:, :1]) / 100 * label_scale(batch, "joint_valid")


def joints_2d(predictions: dict, batch: dict) -> jax.Array:
    """Mean absolute error of x and y of the 2D joints, as a fraction of half the crop's side."""
    distance, half_side = jnp.abs(predictions["keypoints_2d"] - batch["keypoints_2d"]), batch["image"].shape[1] / 2
    return masked_mean(distance.mean(-1), batch["joint_valid_2d"]) / half_side * label_scale(batch, "joint_valid_2d")


def camera(predictions: dict, batch: dict) -> jax.Array:
    """Mean distance to the true joint in the camera's frame, in 100 mm."""
    distance = length(predictions["keypoints_3d"] - batch["keypoints_3d"])  # (B, 21)
    return masked_mean(distance, batch["joint_valid"]) / 100 * label_scale(batch, "joint_valid")


def depth(predictions: dict, batch: dict) -> jax.Array:
    """Mean absolute error of the joints' depths, relative to the mean depth of the hand, in units of 100 mm."""
    valid = batch["joint_valid"]
    predicted, true = predictions["keypoints_3d"][..., 2], batch["keypoints_3d"][..., 2]  # (B, 21)
    error = (predicted - masked_mean(predicted, valid)[:, None]) - (true - masked_mean(true, valid)[:, None])
    return masked_mean(jnp.abs(error), valid) / 100 * label_scale(batch, "joint_valid")


def distance(predictions: dict, batch: dict) -> jax.Array:
    """Absolute error of the hand's mean depth, in units of 100 mm; 0 without a depth image."""
    error = jnp.abs(_mean_depth(predictions, batch) - _mean_depth(batch, batch))
    return error / 100 * batch["has_depth"] * label_scale(batch, "joint_valid")


def size(predictions: dict, batch: dict) -> jax.Array:
    """|log(`root_depth` / true depth)|, where `root_depth` is the depth estimated from the hand's size in the image."""
    estimate, true_depth = predictions["root_depth"], _mean_depth(batch, batch)
    target = jnp.where(batch["joint_valid"].any(-1), true_depth, estimate)  # without labels the error is 0
    return jnp.abs(jnp.log(estimate / jnp.maximum(target, 1.0))) * label_scale(batch, "joint_valid")


def guesses(predictions: dict, batch: dict) -> jax.Array:
    """Auxiliary loss: `joints_3d` + `joints_2d` + `depth`, summed over all intermediate predictions."""
    stages = zip(*(jnp.moveaxis(predictions[name], 1, 0) for name in ("guesses_3d", "guesses_2d")))
    stages = [{"keypoints_3d": joints, "keypoints_2d": pixels} for joints, pixels in stages]
    losses = (sum(term(stage, batch) for term in (joints_3d, joints_2d, depth)) for stage in stages)
    return jnp.asarray(sum(losses, jnp.zeros(len(batch["image"]))))


def vertices(predictions: dict, batch: dict) -> jax.Array:
    """Mean distance to the true vertex, both relative to the wrist, in units of 100 mm; 0 without labels."""
    apart = length(from_wrist(predictions, "vertices") - from_wrist(batch, "vertices")).mean(-1) / 100
    return apart * batch["has_vertices"] * batch["joint_valid"][:, 0] * label_scale(batch, "has_vertices")


def label_scale(batch: dict, mask: str) -> jax.Array | float:
    """Factor of a loss term: `batch["label_scales"]` of the mask of its labels; 1 if it is not there."""
    return batch.get("label_scales", {}).get(mask, 1.0)


def inverse_fraction(mask: jax.Array) -> jax.Array:
    """1 / (fraction of the hands with a label), for a mask (B,) or (B, N)."""
    valid = mask.reshape(len(mask), -1)
    return len(valid) / jnp.maximum((valid > 0).any(-1).sum(), 1)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the last axis of the values whose mask is 1; 0 if the mask is 0 everywhere."""
    return (values * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1)


def length(vectors: jax.Array) -> jax.Array:
    """Euclidean length over the last axis, with a finite gradient at 0."""
    return jnp.sqrt((vectors**2).sum(-1) + 1e-12)


def from_wrist(points: dict, name: str) -> jax.Array:
    """The array `name` (B,N,3) mm of `points` (predictions or a batch), relative to the wrist."""
    return points[name] - points["keypoints_3d"][:, :1]


def _mean_depth(points: dict, batch: dict) -> jax.Array:
    """Mean depth (B,) mm of the labelled joints."""
    return masked_mean(points["keypoints_3d"][..., 2], batch["joint_valid"])
