"""The training loss: named terms, each a pure function of predictions and batch that returns one number per sample."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxhand.config import LossConfig, UserError
from jaxhand.io.plugins import load_object
from jaxhand.training import joint_losses, mesh_losses


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """A term of the loss.

    Attributes:
        function: (predictions, batch) → (B,), not weighted; 0 for a hand that lacks the labels of the term.
        train_only: True if the term needs predictions that exist only in training; the test loss does not contain it.
        always_mean: True if the term is averaged over the batch even if `loss.reduction` is "sum".
    """

    function: Callable[[Any, Any], jax.Array]
    train_only: bool = False
    always_mean: bool = False


_ADVERSARIAL = {"train_only": True, "always_mean": True}  # HaMeR averages these two terms and sums all others
TERMS = {
    "joints_3d": LossTerm(joint_losses.joints_3d),
    "joints_2d": LossTerm(joint_losses.joints_2d),
    "camera": LossTerm(joint_losses.camera),
    "depth": LossTerm(joint_losses.depth),
    "distance": LossTerm(joint_losses.distance),
    "size": LossTerm(joint_losses.size),
    "guesses": LossTerm(joint_losses.guesses),
    "vertices": LossTerm(joint_losses.vertices),
    "w_aux": LossTerm(mesh_losses.coarse_parameters),
    "w_2d": LossTerm(mesh_losses.keypoints_2d),
    "w_3d_joint": LossTerm(mesh_losses.keypoints_3d),
    "w_3d_vert": LossTerm(mesh_losses.vertices),
    "w_prior": LossTerm(mesh_losses.shape_prior),
    "keypoints_2d": LossTerm(mesh_losses.keypoints_2d),
    "keypoints_3d": LossTerm(mesh_losses.keypoints_3d_in_m),
    "global_orient": LossTerm(mesh_losses.global_orient),
    "hand_pose": LossTerm(mesh_losses.hand_pose),
    "betas": LossTerm(mesh_losses.betas),
    "adversarial": LossTerm(mesh_losses.adversarial, **_ADVERSARIAL),
    "discriminator": LossTerm(mesh_losses.discriminator, **_ADVERSARIAL),
}
JOINT_TERMS = ("joints_3d", "joints_2d", "depth", "distance", "size", "guesses")


def resolved(name: str) -> LossTerm:
    """Find a loss term by its name.

    Args:
        name: key of `TERMS`, or `module:name` of a function (or `LossTerm`) from outside the package.

    Raises:
        UserError: there is no such term.
    """
    if name in TERMS:
        return TERMS[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, TERMS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown loss term {name!r}; {hint}known: {', '.join(TERMS)}, or module:function")
    term = load_object(name, "loss term")
    return term if isinstance(term, LossTerm) else LossTerm(term)


def names_of(model_terms: Sequence[str], weights: LossConfig) -> tuple[str, ...]:
    """Names of all loss terms of a training: the model's `loss_terms`, and the keys of `loss.extra`.

    Raises:
        UserError: a term is unknown or has no weight.
    """
    names = tuple(dict.fromkeys((*model_terms, *weights.extra)))
    for name in names:
        resolved(name)
        weight(name, weights)
    return names


def weight(name: str, weights: LossConfig) -> float:
    """The weight of a term.

    Raises:
        UserError: the config has no weight for the term.
    """
    if name in weights.extra:
        return weights.extra[name]
    if name not in TERMS:
        raise UserError(f"loss term {name!r} has no weight; add one to the config: loss.extra: {{{name}: 1.0}}")
    return getattr(weights, name)


def terms(
    predictions: Mapping, batch: dict, names: Sequence[str] = JOINT_TERMS, *, scales: Mapping | None = None
) -> dict[str, jax.Array]:
    """Compute terms of the loss, not weighted; 0 for a hand that lacks the labels of a term.

    Args:
        predictions: what a model returns, leading axis B.
        batch: its labels, leading axis B.
        names: names of the terms, see `resolved`.
        scales: factors of the terms by their labels, see `label_scales`; None: all are 1.

    Returns:
        name → (B,).

    Raises:
        UserError: a term reads a prediction or a label that does not exist; the error names both.
    """
    batch, found = batch | {"label_scales": scales or {}}, {}
    # The terms are computed in the order of TERMS, because the order changes the rounding of the summed gradients.
    for name in (*(name for name in TERMS if name in names), *(name for name in names if name not in TERMS)):
        try:
            found[name] = resolved(name).function(predictions, batch)
        except KeyError as error:
            missing = f"neither the predictions of the model nor the batch contain {error}"
            raise UserError(f"loss term {name!r} cannot be computed: {missing}") from error
    return {name: found[name] for name in names}


def label_scales(batch: Mapping) -> dict[str, jax.Array]:
    """Factors by which terms are enlarged, so that their mean over a batch is the mean over the hands with such labels.

    Hands with only 2D labels then do not weaken the 3D terms.

    Args:
        batch: contains the masks of the labels, (B,) or (B, N).

    Returns:
        mask → 1 / (fraction of the hands with a label).
    """
    return {mask: joint_losses.inverse_fraction(batch[mask]) for mask in joint_losses.MASKS if mask in batch}


def reduced(losses: dict[str, jax.Array], weights: LossConfig, parts: int = 1) -> dict[str, jax.Array]:
    """Reduce each term (B,) to one number by `weights.reduction`, and add `loss`, the weighted sum of the terms.

    Args:
        losses: terms of a batch, or of one of `parts` equal parts of a batch.
        weights: weights and reduction.
        parts: number of parts. The results of all parts add up to the result of the batch.
    """
    if weights.reduction == "mean":
        return {name: value.mean() / parts for name, value in (losses | {"loss": total(losses, weights)}).items()}
    sums = {name: value.mean() / parts if resolved(name).always_mean else value.sum() for name, value in losses.items()}
    return sums | {"loss": total(sums, weights)}


def total(losses: dict[str, jax.Array], weights: LossConfig) -> jax.Array:
    """The weighted sum of the terms, with the shape of one term."""
    return jnp.asarray(sum(weight(name, weights) * value for name, value in losses.items()))
