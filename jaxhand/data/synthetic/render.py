"""Render scenes as images of a colour and a depth camera: the traced hand, a held object, a wall with clutter."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.data.synthetic.raytrace import (
    FAR_MM,
    Cone,
    TracedHand,
    distance,
    dot,
    intersect_cone,
    scaled,
    trace_hand,
    unit,
    wave,
)
from jaxhand.data.synthetic.scene import Scene
from jaxhand.hand.builtin import body


class Images(typing.NamedTuple):
    """The images of the colour and the depth camera, and the exact depth and mask."""

    image: jax.Array  # (B, S, S, 3) uint8
    sensor_depth: jax.Array  # (B, S, S) uint16 mm, with a sensor's noise; 0 where unknown
    exact_depth: jax.Array  # (B, S, S) float32 mm
    mask: jax.Array  # (B, S, S) uint8: 0 wall and clutter, 1 hand and forearm, 2 the held object


def render(scene: Scene, size: int, *, cull: bool = True) -> Images:
    """Render scenes.

    Do not call this function inside `jax.jit`: XLA would fuse its two programs and repeat computations for each pixel.

    Args:
        scene: B scenes; all fields have a leading axis B.
        size: side of the square images, px.
        cull: as for `raytrace.trace_hand`.
    """
    return _compose(scene, trace_hand(scene, size, cull), size)


def intrinsics(window: jax.Array | np.ndarray, size: int) -> np.ndarray:
    """Return K (B, 3, 3) for images of `size` px of the squares `window` (B, 3): centre x, y and side at z = 1."""
    window = np.asarray(window)
    K = np.tile(np.eye(3, dtype=np.float32), (len(window), 1, 1))
    K[:, 0, 0] = K[:, 1, 1] = focal = size / window[:, 2]
    K[:, :2, 2] = (size - 1) / 2 - window[:, :2] * focal[:, None]
    return K


@functools.partial(jax.jit, static_argnums=2)
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _compose(scene: Scene, hand: TracedHand, size: int) -> Images:
    """Add the held object and the background to the traced hand, and simulate the colour and depth cameras."""
    hand = TracedHand(*(field[:size, :size] for field in hand))
    unit = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size - 0.5
    u, v = jnp.broadcast_to(unit[None, :], (size, size)), jnp.broadcast_to(unit[:, None], (size, size))
    ray = (scene.window[0] + u * scene.window[2], scene.window[1] + v * scene.window[2], jnp.ones_like(u))
    length = jnp.sqrt(dot(ray, ray))
    ray = tuple(r / length for r in ray)

    color, depth = _background(scene, ray, u, v)
    shadow = _shadow(scene, scaled(ray, depth * length), hand.distance)
    color = [c * shadow for c in color]
    hand_depth = hand.distance / length
    is_hand = hand.distance < jnp.minimum(FAR_MM / 2, depth * length)
    object_color, object_distance = _held_object(scene, ray)
    is_object = object_distance < jnp.where(is_hand, hand.distance, jnp.minimum(FAR_MM / 2, depth * length))
    depth = jnp.where(is_object, object_distance / length, jnp.where(is_hand, hand_depth, depth))
    color = [jnp.where(is_hand, s, c) for s, c in zip(hand[1:], color)]
    color = jnp.stack([jnp.where(is_object, s, c) for s, c in zip(object_color, color)])  # (3, S, S)

    noise = body.hash_bits(jnp.arange(size * size, dtype=jnp.uint32).reshape(size, size) ^ scene.salt)
    mask = jnp.where(is_object, 2, jnp.where(is_hand, 1, 0)).astype(jnp.uint8)
    return Images(_expose(scene, color, noise), _sense(scene, depth, u, v, noise), depth, mask)


def _background(scene: Scene, ray, u, v):
    """Return the wall with its clutter: linear colours, three arrays (S, S), and depth (S, S) mm."""
    nx, ny, nz, away, gap = scene.wall
    wall = away / jnp.maximum(nx * ray[0] + ny * ray[1] + nz * ray[2], 0.05) * ray[2]  # depth
    fx, fy, gx, gy, coarse, fine, slope_x, slope_y = scene.wall_pattern
    pattern = 1 + coarse * wave(fx * u + fy * v + 0.2 * wave(0.3 * gx * u)) + fine * wave(gx * u + gy * v + coarse)
    color = tuple(jnp.broadcast_to(c * pattern, u.shape) for c in scene.wall_color)

    def put(total, clutter):
        color, lifted = total
        (px, py, sx, sy, c, s, shown, round_, sharp, height, stripes, rate, shadow), tint = clutter
        x, y = u - px, v - py
        a, b = (c * x + s * y) / sx, (c * y - s * x) / sy
        edge = jnp.where(round_ > 0, jnp.sqrt(a * a + b * b + 1e-9), jnp.maximum(jnp.abs(a), jnp.abs(b)))
        inside = shown * jnp.clip((1 - edge) * sharp * jnp.minimum(sx, sy) * 4 + 0.5, 0, 1)
        around = 1 - shown * shadow * jnp.clip((1 - edge) * jnp.minimum(sx, sy) * 12 + 1, 0, 1)
        face = 1 + stripes * wave(rate * sx * a) + 0.15 * shadow * (a + b)
        color = tuple(col * around + (t * face - col * around) * inside for col, t in zip(color, tint))
        return (color, jnp.where(inside > 0.5, height, lifted)), None

    (color, lifted), _ = jax.lax.scan(put, (color, jnp.zeros_like(u)), (scene.clutter, scene.clutter_color))
    depth = jnp.minimum(wall * (1 - lifted * jnp.minimum(gap, 120.0) / away), 5e3)
    light = (0.8 + 0.7 * slope_x * u + 0.7 * slope_y * v) * (0.9 + 0.25 * scene.ambient)
    return [c * light * tint for c, tint in zip(color, scene.light_color)], depth


def _shadow(scene: Scene, wall: tuple, hand: jax.Array) -> jax.Array:
    """Return the fraction (S, S) of the light that reaches points of the wall.

    The function tests points between the wall and the light. A point slightly behind the visible skin is inside the
    hand.

    Args:
        scene: has the light and the wall.
        wall: the points of the wall, three components (S, S) mm.
        hand: (S, S) distance of the hand along each ray, mm.
    """
    size = hand.shape[0]
    x, y, side = scene.window
    rise = jnp.maximum(-jnp.sum(scene.light * scene.wall[:3]), 0.3)

    def step(shade, height):  # mm above the wall
        point = tuple(w + height / rise * s for w, s in zip(wall, scene.light))
        column = jnp.clip(((point[0] / point[2] - x) / side + 0.5) * size, 0, size - 1).astype(jnp.int32)
        row = jnp.clip(((point[1] / point[2] - y) / side + 0.5) * size, 0, size - 1).astype(jnp.int32)
        behind = jnp.sqrt(dot(point, point)) - hand[row, column]
        return jnp.maximum(shade, jnp.clip(1.5 - jnp.abs(behind - 15) / 20, 0, 1) * (1 - height / 160)), None

    shade, _ = jax.lax.scan(step, jnp.zeros_like(hand), np.array([6, 16, 28, 42, 60, 85, 120], np.float32))
    return 1 - 0.75 * (1 - scene.ambient) * shade


def _held_object(scene: Scene, ray):
    """Return linear colours of the held object, and distances along the rays, mm; FAR_MM for rays that miss it."""
    a, e = scene.object_start, scene.object_end - scene.object_start
    ee, ea, aa = jnp.sum(e * e), jnp.sum(e * a), jnp.sum(a * a)
    nothing = jnp.zeros(())
    bb = jnp.sum(scene.object_end**2)
    stick = Cone(tuple(a), tuple(e), scene.object_radius, nothing, ee, ea, aa, bb, None, None, None, *[nothing] * 4)
    t_stick = intersect_cone(ray, stick)
    _, stick_along, offset, _ = distance(scaled(ray, t_stick), stick)
    center = (scene.object_start + scene.object_end) / 2
    t_box, box_normal, box_along = _intersect_box(ray, center, scene.object_axes, scene.object_half_size)
    is_box = scene.object_kind == 2
    t = jnp.where(scene.object_kind == 0, FAR_MM, jnp.where(is_box, t_box, t_stick))
    normal = tuple(jnp.where(is_box, b, o / scene.object_radius) for b, o in zip(box_normal, offset))
    light = tuple(scene.light)
    diffuse = jnp.clip(dot(normal, light) * 0.85 + 0.15, 0, 1)
    half = unit(tuple(a - b for a, b in zip(light, ray)))
    shine = 0.15 * jnp.clip(dot(normal, half), 0, 1) ** 32
    shade = scene.ambient * (0.75 - 0.25 * normal[1]) + (1 - scene.ambient) * 1.6 * diffuse
    stripe = wave(jnp.where(is_box, box_along * 0.03, stick_along * 2)) > 0.2
    color = jnp.where(stripe[None], scene.object_color[0][:, None, None], scene.object_color[1][:, None, None])
    return [(c * shade + shine) * tint for c, tint in zip(color, scene.light_color)], t


def _intersect_box(ray: tuple, center: jax.Array, axes: jax.Array, half_size: jax.Array):
    """Intersect rays with an oriented box. Returns distance, normal, and position along the box's first axis, mm."""
    enter, leave, normal = jnp.zeros_like(ray[0]), jnp.full_like(ray[0], FAR_MM), tuple(jnp.zeros_like(r) for r in ray)
    for axis in range(3):
        speed = dot(ray, tuple(axes[axis]))
        speed = jnp.where(jnp.abs(speed) < 1e-6, 1e-6, speed)
        middle, reach = jnp.sum(center * axes[axis]) / speed, jnp.abs(half_size[axis] / speed)
        first = middle - reach > enter
        normal = tuple(jnp.where(first, -jnp.sign(speed) * n, old) for n, old in zip(axes[axis], normal))
        enter, leave = jnp.maximum(enter, middle - reach), jnp.minimum(leave, middle + reach)
    along = enter * dot(ray, tuple(axes[0])) - jnp.sum(center * axes[0])
    return jnp.where(enter < leave, enter, FAR_MM), normal, along


def _expose(scene: Scene, color, noise) -> jax.Array:
    """Convert linear colours (3, S, S) to an image (S, S, 3) uint8: add lens blur, gamma and noise."""
    up, down = _neighbours(color, 1)
    color = color + scene.blur * (up + down - 2 * color)
    left, right = _neighbours(color, 2)
    color = color + scene.blur * (left + right - 2 * color)
    channels = []
    for channel in range(3):
        shown = jnp.sqrt(jnp.clip(color[channel], 0, None))
        grain = ((noise >> (10 * channel)) & 1023).astype(jnp.float32) * np.float32(2 / 1023) - 1
        channels.append(jnp.clip(shown + scene.grain * 1.7 * grain, 0, 1) * 255 + 0.5)
    return jnp.stack(channels, -1).astype(jnp.uint8)


def _sense(scene: Scene, depth, u, v, noise) -> jax.Array:
    """Convert exact depth to the image (S, S) uint16 mm of a depth camera.

    Faults: noise that grows with the distance, holes and flying pixels at edges, a shadow next to near objects, a few
    round holes, and values rounded to millimetres.
    """
    strength, share, shadow, flying, bias = scene.sensor
    sides = *_neighbours(depth, 0), *_neighbours(depth, 1)
    low, high = functools.reduce(jnp.minimum, sides), functools.reduce(jnp.maximum, sides)
    footprint = scene.window[2] / depth.shape[0] * depth  # mm per pixel
    edge = (
        jnp.maximum(high - depth, depth - low) > 4 * footprint + 6
    )  # a depth step, or a surface tilted by more than 75°
    bits = body.hash_bits(noise)
    chance = lambda shift: ((bits >> shift) & 255).astype(jnp.float32) * np.float32(1 / 256)  # noqa: E731
    hole = edge & (chance(0) < share)
    left = jnp.where(shadow > 1, _neighbours(sides[2], 1)[0], sides[2])  # neighbour at 1 or 2 px
    hole |= (shadow > 0) & (left < depth * 0.93) & (chance(8) < 0.8)
    for x, y, radius in scene.holes:
        hole |= (u - x) ** 2 + (v - y) ** 2 < radius * radius * (0.6 + 0.8 * chance(16))
    hole |= (chance(24) < 0.003) | (depth > 4e3)
    gauss = (chance(0) + chance(8) + chance(16) + chance(24) - 2) * np.float32(np.sqrt(3))
    measured = jnp.where(edge & (chance(16) < flying), 0.5 * (low + high), depth)
    measured = measured + bias + strength * (depth / 500) ** 2 * gauss
    return jnp.where(hole, 0, jnp.round(measured)).astype(jnp.uint16)


def _neighbours(image: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Return the image shifted by +1 and by -1 pixel along an axis; the border is repeated."""
    end = image.shape[axis] - 1
    first, last = (jax.lax.slice_in_dim(image, i, i + 1, axis=axis) for i in (0, end))
    before = jnp.concatenate([first, jax.lax.slice_in_dim(image, 0, end, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(image, 1, end + 1, axis=axis), last], axis)
    return before, after
