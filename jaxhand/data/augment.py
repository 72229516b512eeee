"""Training augmentation. Random geometry is drawn on the host and applied by the crop; the device changes colours."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.config import AugmentConfig


def draw(rng: np.random.Generator, config: AugmentConfig, count: int) -> list[dict]:
    """Draw random rotation (radians), scale and shift: one dict of arguments of `crop` for each of `count` samples."""
    unit = rng.uniform(-1, 1, (count, 4))  # always drawn, so that a sample's random numbers do not depend on the config
    rotation = np.deg2rad(config.rotation_deg) * unit[:, 0]
    scale = 1 + config.scale * unit[:, 1]
    shift = config.shift * unit[:, 2:]
    changes = [{"rotation": r, "scale": s, "shift": t} for r, s, t in zip(rotation, scale, shift)]
    if config.mirror > 0:
        changes = [change | {"mirror": m} for change, m in zip(changes, rng.random(count) < config.mirror)]
    return changes


def color(key: jax.Array, image: jax.Array, config: AugmentConfig) -> jax.Array:
    """Change the colours of images (B, h, w, 3) in 0..1, each image differently. It can be used inside `jax.jit`.

    Channel gains, contrast (about mid-grey) and brightness are combined into one multiplication and one addition.
    """
    batch = image.shape[0]
    key_color, key_noise = jax.random.split(key)
    if config.color > 0:
        change = config.color * jax.random.uniform(key_color, (5, batch, 1, 1), minval=-1, maxval=1)
        gain = jnp.moveaxis(1 + change[:3], 0, -1)  # (B, 1, 1, 3)
        contrast, brightness = 1 + change[3, ..., None], change[4, ..., None]  # (B, 1, 1, 1)
        image = image * (gain * contrast) + (0.5 - 0.5 * contrast + brightness)
    if config.noise > 0:
        image = image + config.noise * jax.random.normal(key_noise, image.shape, image.dtype)
    return jnp.clip(image, 0, 1)
