"""Steps before the first layer that several networks share, and their assumptions about a crop."""

import jax
import jax.numpy as jnp

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB of ImageNet, for values in 0..1
CROP_MM = 280.0  # width of a crop at the hand's distance that an untrained network assumes
RELATIVE_DEPTH_GAIN = 3.0  # relative depth is clipped at DEPTH_RANGE_MM / this


def center_crop(image: jax.Array) -> jax.Array:
    """Cut the middle three quarters of the width out of square images: (B, S, S, ...) → (B, S, 3S/4, ...)."""
    edge = image.shape[2] // 8
    return image[:, :, edge:-edge]


def center_crop_normalize(image: jax.Array) -> jax.Array:
    """Center-crop RGB images (B, S, S, 3) in 0..1 and normalise their colours: (B, S, 3S/4, 3)."""
    return (center_crop(image) - jnp.float32(IMAGE_MEAN)) / jnp.float32(IMAGE_STD)


def relative_depth(measured: jax.Array, reference: jax.Array) -> jax.Array:
    """How far a measured depth lies behind a reference depth, enlarged and clipped to [-1, 1].

    Args:
        measured: normalised depth, in [-1, 1] over ± `DEPTH_RANGE_MM` around the hand; any shape.
        reference: in the same units, of a shape that broadcasts.
    """
    return jnp.clip((measured - reference) * RELATIVE_DEPTH_GAIN, -1, 1)
