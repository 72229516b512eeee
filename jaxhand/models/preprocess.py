"""Preprocessing of crops for several networks, and constants for it."""

import jax
import jax.numpy as jnp

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the RGB values of ImageNet, in 0..1
CROP_MM = 280.0  # an untrained network assumes that a crop is this wide at the hand's distance
RELATIVE_DEPTH_GAIN = 3.0  # factor of `relative_depth`, which is therefore clipped at ± DEPTH_RANGE_MM / 3


def center_crop(image: jax.Array) -> jax.Array:
    """Crop square images to the middle three quarters of their width: (B, S, S, ...) → (B, S, 3S/4, ...)."""
    edge = image.shape[2] // 8
    return image[:, :, edge:-edge]


def center_crop_normalize(image: jax.Array) -> jax.Array:
    """Center-crop RGB images (B, S, S, 3) in 0..1 and normalise their colours: (B, S, 3S/4, 3)."""
    return (center_crop(image) - jnp.float32(IMAGE_MEAN)) / jnp.float32(IMAGE_STD)


def relative_depth(measured: jax.Array, reference: jax.Array) -> jax.Array:
    """Measured depth minus reference depth, times `RELATIVE_DEPTH_GAIN`, clipped to [-1, 1].

    Args:
        measured: depth relative to the hand; [-1, 1] is ± `DEPTH_RANGE_MM`. Any shape.
        reference: depth in the same units; its shape broadcasts with that of `measured`.
    """
    return jnp.clip((measured - reference) * RELATIVE_DEPTH_GAIN, -1, 1)
