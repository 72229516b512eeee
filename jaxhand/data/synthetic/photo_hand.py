"""The visible hand of a photograph: its pixels on the flat map of the skin, and the skin's colours and relief."""

import typing

import cv2
import numpy as np

from jaxhand.data.synthetic import backgrounds, skin_map
from jaxhand.data.synthetic.raytrace import BLEND_MM, FAR_MM
from jaxhand.data.synthetic.scene import Scene
from jaxhand.data.synthetic.surfaces import Surface, dot, spread
from jaxhand.hand.builtin import body

_REACH_MM = 10.0  # cones that are farther from the skin than this have no share in it


class HandMap(typing.NamedTuple):
    """The P pixels of a hand, on the flat map of `skin_map`."""

    rows: np.ndarray  # (P,) indices of the pixels in the flattened image
    normal: np.ndarray  # (P, 3)
    place: np.ndarray  # (P, 2) mm on the map
    back: np.ndarray  # (P,) 1 on the back of the hand, 0 on the palm, between them at the sides
    arm: np.ndarray  # (P,) share of the forearm
    nail: np.ndarray  # (P,) 1 at a nail
    cuticle: np.ndarray  # (P,) 0 in the middle of the nail, 1 at its border
    pixel: float  # side of a pixel on the hand, mm


def map_hand(scene: Scene, distance: np.ndarray, ray: np.ndarray) -> HandMap:
    """Find where the pixels of a traced hand lie on the skin's map.

    Args:
        scene: one scene, NumPy arrays.
        distance: (S, S) mm along the ray, as `raytrace.trace_hand` returns it.
        ray: (S, S, 3) unit rays.
    """
    layout = skin_map.layout()
    rows = np.flatnonzero(distance.ravel() < FAR_MM / 2)
    point = ray.reshape(-1, 3)[rows] * distance.ravel()[rows, None]
    count = len(rows)
    weight, back, arm = np.full((3, count), 1e-9, np.float32)
    normal, place = np.zeros((count, 3), np.float32), np.zeros((count, 2), np.float32)
    nail, cuticle = np.zeros((2, count), np.float32)
    start, end, start_radius, end_radius = scene.cones
    for cone in range(body.NUM_CONES):
        axis = end[cone] - start[cone]
        offset = point - start[cone]
        along = np.clip(offset @ (axis / (axis @ axis)), 0, 1)
        offset -= along[:, None] * axis
        length = np.sqrt(dot(offset, offset) + np.float32(1e-6))
        gap = length - (start_radius[cone] + (end_radius[cone] - start_radius[cone]) * along)
        near = np.flatnonzero(gap < _REACH_MM)
        if not len(near):
            continue
        frame = scene.frames[body.BONE_OF_CONE[cone]]
        w = np.exp(gap[near] * np.float32(-1 / BLEND_MM))
        outward = offset[near] / length[near, None]
        local = (point[near] - start[cone]) @ frame  # (near, 3) in the axes of the bone
        stretch = layout.length[cone] / np.sqrt(axis @ axis)
        if body.IS_FOREARM[cone]:
            stretch = 1.0
        weight[near] += w
        normal[near] += w[:, None] * outward
        back[near] += w * (outward @ frame[:, 2])
        place[near] += w[:, None] * (layout.start[cone] + (local[:, :2] * (1, stretch)) @ layout.axes[cone].T)
        arm[near] += w * body.IS_FOREARM[cone]
        if body.IS_TIP[cone]:
            radius = end_radius[cone]
            x, y, z = ((point[near] - start[cone] - 0.78 * axis) @ frame).T / radius
            border = np.maximum(np.abs(x) / 0.80, np.hypot(x / 1.02, (y - 0.15) / 0.98))
            inside = (border < 1) & (z > 0.3) & (gap[near] < 1.0)
            nail[near[inside]], cuticle[near[inside]] = 1, border[inside]
    weight = weight[:, None]
    normal = normal / np.linalg.norm(normal + 1e-9, axis=1, keepdims=True)
    back = np.clip(0.5 + 1.6 * back / weight[:, 0], 0, 1)
    pixel = float(scene.window[2] / len(distance) * np.median(point[:, 2])) if count else 1.0
    return HandMap(rows, normal, place / weight, back, arm / weight[:, 0], nail, cuticle, pixel)


def smooth_hand(found: HandMap, scene: Scene, distance: np.ndarray) -> Surface:
    """Return a hand with skin of one colour, paler on the palm, and with nails."""
    palm = (1 - found.back)[:, None]
    color = np.broadcast_to(scene.skin, found.normal.shape) * (1 + 0.35 * palm * (1 - scene.skin))
    color = color * np.where(found.nail[:, None] > 0, (1.05, 0.95, 0.97), 1)
    return spread(found.rows, distance, found.normal, color, 0.25 + 0.5 * found.nail, 1.0)


def detailed_hand(rng: np.random.Generator, found: HandMap, scene: Scene, distance: np.ndarray, drawn) -> Surface:
    """Return a hand with the skin of one person.

    Args:
        rng: random numbers.
        found: result of `map_hand`.
        scene: one scene, NumPy arrays; its colour of the skin is used.
        distance: as for `map_hand`.
        drawn: result of `skin_map.skin_of`.
    """
    pale, rosy, contrast = rng.uniform((0.15, 0.3, 0.4), (0.75, 1.2, 1.3))
    nail_tone = rng.uniform(size=4)
    at = skin_map.to_pixels(found.place).astype(np.float32)
    back = found.back[:, None]
    value = (1 - back) * _look_up(drawn[0], at) + back * _look_up(drawn[1], at)  # (P, 4)
    tone, redness, crease, height = value.T * np.array([[contrast], [contrast], [contrast], [1]], np.float32)
    nail = found.nail * (found.cuticle < 0.93)
    skin = np.asarray(scene.skin)
    color = skin * (1 + pale * (1 - back) * (1 - skin) * np.array([1.0, 0.85, 0.85], np.float32))
    color = color * np.exp(tone - 0.55 * crease * (1 - nail) - 0.45 * found.nail * (found.cuticle >= 0.93))[:, None]
    color = color * np.exp((rosy * redness * (1 - nail))[:, None] * np.array([0.10, -0.16, -0.13], np.float32))
    nail_color = skin * np.array([1.1, 0.93, 0.95], np.float32) + 0.05 * nail_tone[0]
    if nail_tone[1] < 0.12:  # varnish
        nail_color = backgrounds.color(rng, 1.6)
    free_edge = np.clip((found.cuticle - 0.75) * 8, 0, 1)[:, None] * (nail_tone[2] < 0.5) * 0.12
    color = np.where(nail[:, None] > 0, nail_color + free_edge, color)
    gloss = (0.25 + 0.9 * rng.uniform() ** 2) * (1 - 0.5 * crease) + nail * (0.4 + 1.2 * nail_tone[3])
    normal = _bumped(found, height * (1 - found.nail), distance.shape)
    return spread(found.rows, distance, normal, color, gloss, 1.0 - 0.8 * nail)


def _look_up(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return values (P, 4) of a map at pixels (P, 2)."""
    width = 256  # OpenCV limits the length of a row
    padded = np.zeros((2, -(-len(at) // width) * width), np.float32)
    padded[:, : len(at)] = at.T
    columns, rows = padded.reshape(2, -1, width)
    found = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.reshape(-1, 4)[: len(at)]


def _bumped(found: HandMap, height: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return normals (P, 3) that are tilted by a relief of `height` (P,) mm, as on a plane that faces the camera."""
    image, inside = np.zeros((2, *shape), np.float32)
    image.ravel()[found.rows], inside.ravel()[found.rows] = height, 1
    inside = cv2.erode(inside, np.ones((3, 3), np.uint8)) / (8 * found.pixel)
    slope = [cv2.Sobel(image, cv2.CV_32F, *order, ksize=3) * inside for order in ((1, 0), (0, 1))]
    gradient = np.zeros_like(found.normal)
    gradient[:, :2] = np.stack([s.ravel()[found.rows] for s in slope], 1).clip(-0.8, 0.8)
    normal = found.normal - gradient + found.normal * dot(gradient, found.normal)[:, None]
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)
