"""Light on the surfaces of a photograph: a main light with shadows, a second one, light from all around, highlights."""

import typing

import cv2
import numpy as np

from jaxhand.data.synthetic.raytrace import FAR_MM
from jaxhand.data.synthetic.surfaces import Surface, dot

_STEPS_MM = np.array([5, 9, 14, 20, 28, 38, 52, 70, 95, 125], np.float32)  # along the way to the light
_THICK_MM = 45.0  # surfaces cast shadows as if they were this thick
_OPEN_MM = 9.0  # hollows that are deeper than this are dark


class Lights(typing.NamedTuple):
    """The lights of a scene. Directions point towards the light; colours are linear."""

    direction: np.ndarray  # (2, 3) of the main and the second light
    color: np.ndarray  # (2, 3)
    above: np.ndarray  # (3,) light from above
    below: np.ndarray  # (3,) light from below
    softness: float  # of shadows, 0 to 1
    sharpness: float  # exponent of highlights


def draw(rng: np.random.Generator) -> Lights:
    """Return random lights, such as those of a room, the sun, a lamp or a window."""
    direction = rng.normal(size=(2, 3)) + ((0, -0.7, -0.4), (0, -0.2, -0.3))
    direction[:, 2] = np.where(direction[:, 2] > 0.5, -direction[:, 2], direction[:, 2])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    warm = 0.16 * rng.normal(size=(4, 1)) * np.array([1.0, 0.15, -1.0]) + 0.03 * rng.normal(size=(4, 3))
    tint = np.exp(warm)
    main, second, around = rng.uniform(0.1, 1.5), 0.6 * rng.uniform() ** 2, rng.uniform(0.35, 1.0)
    return Lights(
        direction=direction.astype(np.float32),
        color=(tint[:2] * np.array([[main], [second]])).astype(np.float32),
        above=(tint[2] * around * rng.uniform(0.8, 1.2)).astype(np.float32),
        below=(tint[3] * around * rng.uniform(0.35, 1.0)).astype(np.float32),
        softness=rng.uniform(),
        sharpness=rng.uniform(8, 40),
    )


def single(direction: np.ndarray, color: np.ndarray, ambient: float) -> Lights:
    """Return one light, with grey light from all around."""
    return Lights(
        direction=np.array([direction, direction], np.float32),
        color=np.array([color * 1.4 * (1 - ambient), np.zeros(3)], np.float32),
        above=np.array(color * ambient, np.float32),
        below=np.array(color * ambient * 0.6, np.float32),
        softness=0.5,
        sharpness=16.0,
    )


def shade(surface: Surface, ray: np.ndarray, window: np.ndarray, lights: Lights, lit: np.ndarray) -> np.ndarray:
    """Return linear light (S, S, 3) of a surface.

    Args:
        surface: what is visible.
        ray: (S, S, 3) unit rays.
        window: (3,) centre x, y and side at z = 1.
        lights: the lights.
        lit: (S, S) share of the main light that arrives, see `cast`.
    """
    normal, flesh = surface.normal, surface.flesh[..., None]
    open_sky = hollows(surface, ray, window)[..., None]
    up = 0.5 - 0.5 * normal[..., 1:2]
    total = (lights.below + (lights.above - lights.below) * up) * open_sky
    highlight = lights.above * (0.5 * up * open_sky)
    for direction, color, visible in zip(lights.direction, lights.color, (lit[..., None], 0.5 + 0.5 * open_sky)):
        facing = (normal @ direction)[..., None]
        # Light that scatters under the skin goes around its curves, red light the farthest.
        wrap = flesh * np.array([0.35, 0.16, 0.10], np.float32)
        total += color * visible * np.clip((facing + wrap) / (1 + wrap), 0, 1)
        half = direction - ray
        shine = np.clip(dot(normal, half) / np.sqrt(dot(half, half)), 0, 1) ** lights.sharpness
        highlight += color * (visible * (2.2 * shine[..., None] * (facing > 0)))
    rim = 1 - np.clip(-dot(normal, ray), 0, 1)
    mirror = (0.035 + 0.4 * rim**5) * surface.gloss
    return surface.color * total + highlight * mirror[..., None]


def hollows(surface: Surface, ray: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return how open (S, S) each pixel is to light from around: smaller where its surroundings are nearer."""
    depth = surface.distance * ray[..., 2]
    known = depth < FAR_MM / 2
    far = depth[known].max() + 30 if known.any() else 1000.0
    depth = np.where(known, depth, far).astype(np.float32)
    size, middle = len(depth), np.median(depth[known]) if known.any() else 1.0
    pixel = max(window[2] * middle / size, 1e-3)  # mm
    occluded = np.zeros_like(depth)
    for radius in (4.0, 14.0):
        sigma = float(np.clip(radius / pixel, 0.6, size / 6))
        around = cv2.GaussianBlur(depth, (0, 0), sigma)
        occluded += np.clip((depth - around) / (_OPEN_MM * radius / 9), -0.3, 1.2)
    return np.clip(1 - 0.42 * occluded, 0.25, 1.05)


def cast(distance: np.ndarray, ray: np.ndarray, normal: np.ndarray, lights: Lights, window: np.ndarray) -> np.ndarray:
    """Return the share (S, S) of the main light that is not blocked by what is visible elsewhere in the image.

    Args:
        distance: (S, S) mm of the visible surface along the rays.
        ray, window: as for `shade`.
        normal: (S, S, 3) of the surface.
        lights: the first light is tested.
    """
    size, direction = len(distance), lights.direction[0]
    start = np.moveaxis(ray * distance[..., None] + 1.5 * normal, -1, 0).copy()
    blocked = np.zeros((size, size), np.float32)
    for step in _STEPS_MM:
        x, y, z = (start[axis] + step * direction[axis] for axis in range(3))
        scale = np.float32(size / window[2]) / np.maximum(z, 1.0)
        column = x * scale + np.float32((0.5 - window[0] / window[2]) * size - 0.5)
        row = y * scale + np.float32((0.5 - window[1] / window[2]) * size - 0.5)
        there = cv2.remap(distance, column, row, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=FAR_MM)
        behind = np.sqrt(x * x + y * y + z * z) - there
        inside = np.clip((behind - 1) * 0.25, 0, 1) * np.clip((_THICK_MM - behind) * 0.05, 0, 1)
        np.maximum(blocked, inside * np.float32(1 - lights.softness * step / 130), out=blocked)
    blocked = cv2.GaussianBlur(blocked, (0, 0), (0.5 + 2.0 * lights.softness) * size / 224)
    return 1 - np.float32(0.92) * blocked
