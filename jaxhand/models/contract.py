"""Types of the contract that `jaxhand/models/__init__.py` describes, for annotations."""

import typing
from collections.abc import Sequence
from typing import NotRequired

import jax
from flax import nnx

from jaxhand.config import Config
from jaxhand.hand.skinned import SkinnedHand


class Predictions(typing.TypedDict):
    """What a model returns for B hands. All of them are right hands: left ones are mirrored before."""

    keypoints_3d: jax.Array  # (B, 21, 3) mm in the camera frame of the crop
    keypoints_2d: jax.Array  # (B, 21, 2) px of the crop
    # With a mesh:
    vertices: NotRequired[jax.Array]  # (B, V, 3) mm in the camera frame of the crop
    # If the model poses the hand of the mesh:
    mano_pose: NotRequired[jax.Array]  # (B, 48) axis-angle
    mano_shape: NotRequired[jax.Array]  # (B, 10)
    camera: NotRequired[jax.Array]  # (B, 3) s, tx, ty, see `mano_head.mano_predictions`
    rotations: NotRequired[jax.Array]  # (B, 16, 3, 3) of `mano_pose`
    # For loss terms and metrics:
    root_depth: NotRequired[jax.Array]  # (B,) mm, the distance of the hand, estimated without depth
    guesses_3d: NotRequired[jax.Array]  # (B, G, 21, 3) mm, intermediate predictions
    guesses_2d: NotRequired[jax.Array]  # (B, G, 21, 2) px of the crop
    coarse_rotations: NotRequired[jax.Array]  # (B, 16, 3, 3) before the refinement
    coarse_shape: NotRequired[jax.Array]  # (B, 10)
    fake_logits: NotRequired[jax.Array]  # (B, 17) scores, see `discriminator.discriminator_outputs`
    critic_fake: NotRequired[jax.Array]  # (B, 17)
    critic_real: NotRequired[jax.Array]  # (B, R, 17)
    world: NotRequired[jax.Array]  # (B, 21, 3) mm around the centre of the hand
    presence: NotRequired[jax.Array]  # (B,) how likely there is a hand
    right: NotRequired[jax.Array]  # (B,) how likely it is a right hand, of an image that is not mirrored


class Model(nnx.Module):
    """What `build` returns. A model keeps the contract; it does not have to inherit from this class."""

    has_mesh: bool
    loss_terms: Sequence[str]

    def __init__(self, config: Config, hand_model: SkinnedHand | None, rngs: nnx.Rngs):
        raise NotImplementedError

    def __call__(self, batch: dict, key: jax.Array | None = None) -> Predictions:
        """Predict the hands of a batch."""
        raise NotImplementedError
