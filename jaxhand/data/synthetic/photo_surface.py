"""What the pixels of a photograph show: the surface of hands and solids, with their colours before any light falls."""

import typing

import cv2
import numpy as np

from jaxhand.data.synthetic import backgrounds, grasp, skin_map
from jaxhand.data.synthetic.raytrace import BLEND_MM, FAR_MM
from jaxhand.data.synthetic.scene import Scene
from jaxhand.hand.builtin import body

_REACH_MM = 10.0  # cones that are farther from the skin than this have no share in it
_LEVEL = np.where(body.IS_DIGIT, np.arange(body.NUM_CONES) % 3, 0)


class Surface(typing.NamedTuple):
    """The visible surface of an image of S px, in mm and linear colours."""

    distance: np.ndarray  # (S, S) along the ray; FAR_MM where nothing is
    normal: np.ndarray  # (S, S, 3) unit vectors
    color: np.ndarray  # (S, S, 3) share of the light that is reflected
    gloss: np.ndarray  # (S, S) strength of the highlight
    flesh: np.ndarray  # (S, S) 1 where light goes under the surface, as in skin


class HandMap(typing.NamedTuple):
    """The P pixels of a hand, on the flat map of `skin_map`."""

    rows: np.ndarray  # (P,) indices of the pixels in the flattened image
    points: np.ndarray  # (P, 3) mm, camera frame
    normal: np.ndarray  # (P, 3)
    place: np.ndarray  # (P, 2) mm on the map
    back: np.ndarray  # (P,) 1 on the back of the hand, 0 on the palm, between them at the sides
    arm: np.ndarray  # (P,) share of the forearm
    nail: np.ndarray  # (P,) 1 at a nail
    cuticle: np.ndarray  # (P,) 0 in the middle of the nail, 1 at its border


def empty(size: int) -> Surface:
    """Return an image without any surface."""
    flat, colors = np.zeros((size, size), np.float32), np.zeros((size, size, 3), np.float32)
    return Surface(flat + np.float32(FAR_MM), colors - np.float32([0, 0, 1]), colors, flat, flat)


def rays(window: np.ndarray, size: int) -> np.ndarray:
    """Return unit rays (S, S, 3) through the pixels of a window (3,): centre x, y and side at z = 1."""
    place = ((np.arange(size) + 0.5) / size - 0.5) * window[2]
    ray = np.ones((size, size, 3), np.float32)
    ray[..., 0], ray[..., 1] = window[0] + place, window[1] + place[:, None]
    return ray / np.sqrt(np.einsum("...i,...i->...", ray, ray))[..., None]


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
        length = np.sqrt(np.einsum("pi,pi->p", offset, offset) + np.float32(1e-6))
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
    return HandMap(rows, point, normal, place / weight, back, arm / weight[:, 0], nail, cuticle)


def smooth_hand(found: HandMap, scene: Scene, distance: np.ndarray) -> Surface:
    """Return a hand with skin of one colour, paler on the palm, and with nails."""
    palm = (1 - found.back)[:, None]
    color = np.broadcast_to(scene.skin, found.normal.shape) * (1 + 0.35 * palm * (1 - scene.skin))
    color = color * np.where(found.nail[:, None] > 0, (1.05, 0.95, 0.97), 1)
    return _spread(found.rows, distance, found.normal, color, 0.25 + 0.5 * found.nail, 1.0)


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
    tone, redness, crease, height = value.T * np.float32([[contrast], [contrast], [contrast], [1]])
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
    normal = _bumped(found, height * (1 - found.nail), distance)
    return _spread(found.rows, distance, normal, color, gloss, 1.0 - 0.8 * nail)


def dress(rng: np.random.Generator, surface: Surface, found: HandMap) -> Surface:
    """Put a sleeve, a watch and rings on a hand. They have colours and shine, but hardly any thickness."""
    color, gloss, flesh = surface.color.reshape(-1, 3), surface.gloss.ravel(), surface.flesh.ravel()
    x, y = found.place.T
    has = rng.uniform(size=3)
    if has[0] < 0.45:
        hem = -np.exp(rng.uniform(np.log(6), np.log(110)))  # y of the sleeve's end
        covered = found.rows[(y < hem) & (found.arm > 0.35)]
        cloth = backgrounds.draw(rng, 96)
        at = np.mod(np.stack([x, y], 1) * rng.uniform(0.4, 1.5), 95).astype(int)[(y < hem) & (found.arm > 0.35)]
        color[covered] = cloth[at[:, 1], at[:, 0]]
        edge = (y < hem) & (y > hem - 3) & (found.arm > 0.35)
        color[found.rows[edge]] *= 0.55
        gloss[covered], flesh[covered] = 0.05, 0
    if has[1] < 0.2:
        low = -rng.uniform(14, 38)
        band = (y > low) & (y < low + rng.uniform(10, 22))
        dial = np.hypot(x, y - low - 8) < rng.uniform(14, 21)
        for mask, tone, shine in (
            (band, backgrounds.color(rng), 0.6),
            (dial & (found.back > 0.6), backgrounds.color(rng), 2.0),
        ):
            rows = found.rows[mask]
            color[rows], gloss[rows], flesh[rows] = tone, shine, 0
    if has[2] < 0.3:
        layout = skin_map.layout()
        for finger in rng.choice(np.arange(5), rng.integers(1, 3), replace=False):
            middle = layout.knuckles[finger, 0] + layout.directions[finger] * (28.0 if finger else 16.0)
            offset = found.place - middle
            along = offset @ layout.directions[finger]
            across = np.abs(offset[:, 0] * layout.directions[finger][1] - offset[:, 1] * layout.directions[finger][0])
            rows = found.rows[(np.abs(along) < rng.uniform(1.2, 3.5)) & (across < 12)]
            metal = np.array([[0.75, 0.55, 0.25], [0.7, 0.7, 0.72], [0.05, 0.05, 0.06]])[rng.integers(3)]
            color[rows], gloss[rows], flesh[rows] = metal, 3.0, 0
    shape = surface.gloss.shape
    return surface._replace(color=color.reshape(*shape, 3), gloss=gloss.reshape(shape), flesh=flesh.reshape(shape))


def solid_surface(rng: np.random.Generator, solid: grasp.Solid, ray: np.ndarray) -> Surface:
    """Return the surface of a held solid, with two colours in stripes or patches."""
    center, axes, half = (np.asarray(field) for field in solid[1:])
    direction = ray.reshape(-1, 3) @ axes.T  # in the solid's axes
    distance, normal = _SOLIDS[int(solid.kind)](-axes @ center, direction, half)
    texture, plain = backgrounds.draw(rng, 128), backgrounds.color(rng, 1.5)
    share, gloss = rng.choice([0.0, 0.5, 1.0]), 2.0 * rng.uniform() ** 2
    rows = np.flatnonzero(distance < FAR_MM / 2)
    point = direction[rows] * distance[rows, None] - axes @ center
    at = np.clip(point * 0.8 + 64, 0, 127).astype(int)
    color = plain * (1 - share) + share * texture[at[:, 0], (at[:, 1] + at[:, 2]) % 128]
    return _spread(rows, np.float32(distance).reshape(ray.shape[:2]), normal[rows] @ axes, color, gloss, 0.0)


def nearest(first: Surface, second: Surface) -> Surface:
    """Return, at each pixel, the nearer of two surfaces."""
    pick = first.distance <= second.distance
    fields = [np.where(pick if a.ndim == 2 else pick[..., None], a, b) for a, b in zip(first, second)]
    return Surface(*fields)


def _spread(rows: np.ndarray, distance: np.ndarray, normal, color, gloss, flesh) -> Surface:
    """Put the values of the pixels `rows` (P,) into images."""
    arrays = [array.copy() for array in empty(len(distance))[1:]]
    for array, values in zip(arrays, (normal, color, gloss, flesh)):
        array.reshape(-1, *array.shape[2:])[rows] = values
    return Surface(distance, *arrays)


def _look_up(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return values (P, 4) of a map at pixels (P, 2)."""
    width = 256  # OpenCV limits the length of a row
    padded = np.zeros((-(-len(at) // width) * width, 2), np.float32)
    padded[: len(at)] = at
    grid = padded.reshape(-1, width, 2)
    return cv2.remap(image, grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(-1, 4)[: len(at)]


def _bumped(found: HandMap, height: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return normals (P, 3) that are tilted by a relief of `height` (P,) mm.

    The slope is that of the image of the height: mm per mm of a plane that faces the camera.
    """
    image = np.zeros(distance.size, np.float32)
    image[found.rows] = height
    image = image.reshape(distance.shape)
    inside = np.zeros(distance.size, np.float32)
    inside[found.rows] = 1
    inside = cv2.erode(inside.reshape(distance.shape), np.ones((3, 3), np.uint8))
    footprint = np.median(found.points[:, 2]) * 1.0 if len(found.points) else 1.0
    pixel = footprint * _pixel_side(found, distance.shape[0])
    slope = [cv2.Sobel(image, cv2.CV_32F, *order, ksize=3, scale=1 / 8) * inside / pixel for order in ((1, 0), (0, 1))]
    gradient = np.stack([s.ravel()[found.rows] for s in slope] + [np.zeros(len(found.rows), np.float32)], 1)
    gradient = np.clip(gradient, -0.8, 0.8)
    normal = found.normal - gradient + found.normal * (gradient * found.normal).sum(1, keepdims=True)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _pixel_side(found: HandMap, size: int) -> float:
    """Return the side of a pixel at z = 1."""
    row, column = found.rows // size, found.rows % size
    flat = found.points[:, :2] / found.points[:, 2:]
    spans = (np.ptp(flat, axis=0) / np.maximum([np.ptp(column), np.ptp(row)], 1)) if len(row) else np.ones(2)
    return float(max(spans.max(), 1e-6))


def _ball(eye, direction, half):
    b, c = direction @ eye, eye @ eye - half[1] ** 2
    h = b * b - c
    t = np.where(h > 0, -b - np.sqrt(np.maximum(h, 0)), FAR_MM)
    t = np.where(t > 0, t, FAR_MM)
    return t, (eye + direction * t[:, None]) / half[1]


def _box(eye, direction, half):
    safe = np.where(np.abs(direction) < 1e-6, 1e-6, direction)
    middle, reach = -eye / safe, np.abs(half / safe)
    enter, leave = (middle - reach).max(1), (middle + reach).min(1)
    axis = (middle - reach).argmax(1)
    normal = -np.sign(np.take_along_axis(safe, axis[:, None], 1)) * np.eye(3)[axis]
    return np.where((enter < leave) & (enter > 0), enter, FAR_MM), normal


def _cylinder(eye, direction, half):
    flat, side = direction[:, 1:], eye[1:]
    a, b, c = (flat * flat).sum(1) + 1e-9, flat @ side, side @ side - half[1] ** 2
    h = b * b - a * c
    wall = (-b - np.sqrt(np.maximum(h, 0))) / a
    wall = np.where((h > 0) & (np.abs(eye[0] + direction[:, 0] * wall) < half[0]) & (wall > 0), wall, FAR_MM)
    x = np.where(np.abs(direction[:, 0]) < 1e-6, 1e-6, direction[:, 0])
    cap = (-np.sign(x) * half[0] - eye[0]) / x
    on_cap = (np.linalg.norm(side + flat * cap[:, None], axis=1) < half[1]) & (cap > 0)
    cap = np.where(on_cap, cap, FAR_MM)
    point = eye + direction * np.minimum(wall, cap)[:, None]
    around = np.concatenate([np.zeros((len(x), 1)), point[:, 1:] / half[1]], 1)
    normal = np.where((cap < wall)[:, None], -np.sign(x)[:, None] * np.eye(3)[0], around)
    return np.minimum(wall, cap), normal


_SOLIDS = {grasp.BOX: _box, grasp.CYLINDER: _cylinder, grasp.BALL: _ball}
