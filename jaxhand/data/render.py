"""Pictures of scenes: a ray tracer for round cones under a smooth skin, a wall with clutter, a depth sensor.

The hand is traced in tiles of 8x8 pixels. A tile carries the set of cones its rays may meet as the bits of one integer;
tiles with sets of like size are traced together, looping as often as the largest needs. No cone is ever left out, and
an empty tile costs nothing.
"""

import functools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.data.scene import Scene
from jaxhand.hand import body

TILE, GROUP = 8, 32  # px, tiles traced together
BLEND_MM = 2.6  # width of the smooth minimum that joins the cones
SHADE_MM = 7.0  # how far over the skin other flesh darkens it
_MARGIN_MM = 9.0  # around a cone, where it still blends or darkens
_FAR_MM = 1e5
_ROWS = 32  # of the table of cones: the 28, then rows that are never met


class Pictures(typing.NamedTuple):
    """What the camera gives, and what only the world knows."""

    image: jax.Array  # (B, S, S, 3) uint8
    sensor: jax.Array  # (B, S, S) uint16 mm, noisy, 0 where nothing is measured
    depth: jax.Array  # (B, S, S) float32 mm, exact
    mask: jax.Array  # (B, S, S) uint8: 0 wall and clutter, 1 hand and forearm, 2 the held object


def render(scene: Scene, size: int, *, cull: bool = True) -> Pictures:
    """Take the pictures of scenes (leading axis B), `size` px square. `cull=False` tries every cone on every ray.

    Best called outside of `jax.jit`: compiled as one, XLA fuses the steps and repeats earlier ones for every pixel.
    """
    return _compose(scene, _trace_hand(scene, size, cull), size)


def intrinsics(window, size: int) -> np.ndarray:
    """The K (B, 3, 3) of images `size` px wide that show `window` (B, 3): centre x, y and side at z = 1."""
    window = np.asarray(window)
    K = np.tile(np.eye(3, dtype=np.float32), (len(window), 1, 1))
    K[:, 0, 0] = K[:, 1, 1] = focal = size / window[:, 2]
    K[:, :2, 2] = (size - 1) / 2 - window[:, :2] * focal[:, None]
    return K


# ---- the hand ----------------------------------------------------------------------------------------------------
class _Cone(typing.NamedTuple):
    """One round cone and what its formulas need, camera at the origin: a its start, e = end - start."""

    a: tuple
    e: tuple
    ra: jax.Array
    dr: jax.Array  # end radius - start radius
    ee: jax.Array
    ea: jax.Array
    aa: jax.Array
    bb: jax.Array
    x: tuple  # bone axes
    y: tuple
    z: tuple
    tip: jax.Array  # 1 for the last bone of a digit: it has a nail
    crease: jax.Array  # 1 where a joint folds the skin at its start
    forearm: jax.Array  # 1 for the forearm, which a sleeve may cover
    rosy: jax.Array  # how much redder its end is


class _Skin(typing.NamedTuple):
    """The traced hand, each (B, P, P) with P the size rounded up to whole tiles."""

    distance: jax.Array  # along the ray, _FAR_MM where there is no hand
    red: jax.Array
    green: jax.Array
    blue: jax.Array


def _cone_table(scene: Scene) -> jax.Array:
    """(_ROWS, columns) of one scene; the columns are the fields of `_Cone`."""
    a, b, ra, rb = scene.cones
    e = b - a
    frame = scene.frames[body.BONE_OF_CONE]  # (28, 3, 3)
    dot = lambda u, v: jnp.sum(u * v, -1, keepdims=True)  # noqa: E731
    level = np.where(body.IS_DIGIT, np.arange(body.NUM_CONES) % 3, 0)
    marks = np.stack([body.IS_TIP, level > 0, body.IS_FOREARM, body.IS_TIP], 1).astype(np.float32)
    columns = [a, e, ra[:, None], (rb - ra)[:, None], dot(e, e), dot(e, a), dot(a, a), dot(b, b)]
    columns += [frame[:, :, 0], frame[:, :, 1], frame[:, :, 2], marks]
    table = jnp.concatenate(columns, 1)  # (28, 25)
    never = np.zeros(table.shape[1], np.float32)
    never[[2, 5, 6]], never[8], never[10:12] = (_FAR_MM, 1, 1e-3), 1, _FAR_MM**2  # a grain far behind everything
    return jnp.concatenate([table, jnp.tile(never, (_ROWS - body.NUM_CONES, 1))])


def _read_cone(row: jax.Array) -> _Cone:
    """Rows (n, columns) → fields (n, 1) that broadcast over a tile's pixels."""
    column = iter(row[:, i, None] for i in range(row.shape[1]))
    three = lambda: (next(column), next(column), next(column))  # noqa: E731
    one = lambda: next(column)  # noqa: E731
    return _Cone(three(), three(), one(), one(), one(), one(), one(), one(), three(), three(), three(), *column)


def _tile_sets(scene: Scene, size: int, tiles: int) -> jax.Array:
    """(tiles * tiles,) uint32 of one scene: bit c is set where cone c, its margin included, may meet the tile's rays."""
    a, b, ra, rb = scene.cones
    start, end = a[:, :2] / a[:, 2:], b[:, :2] / b[:, 2:]  # (28, 2) at z = 1
    # A ball of radius r at depth z covers a disc of r / z, up to a tenth more towards the image's corners.
    radius = 1.1 * jnp.maximum((ra + _MARGIN_MM) / a[:, 2], (rb + _MARGIN_MM) / b[:, 2])
    along = end - start
    x, y, side = scene.window
    center = ((np.arange(tiles, dtype=np.float32) + 0.5) * TILE / size - 0.5) * side
    dx = (x + jnp.tile(center, tiles))[:, None] - start[:, 0]  # (tiles², 28)
    dy = (y + jnp.repeat(center, tiles))[:, None] - start[:, 1]
    at = jnp.clip((dx * along[:, 0] + dy * along[:, 1]) / (jnp.sum(along**2, -1) + 1e-9), 0, 1)
    square = (dx - at * along[:, 0]) ** 2 + (dy - at * along[:, 1]) ** 2
    meets = square < (radius + side * TILE / size * 0.7072) ** 2
    return jnp.sum(jnp.where(meets, np.uint32(1) << np.arange(body.NUM_CONES, dtype=np.uint32), np.uint32(0)), -1, dtype=jnp.uint32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _trace_hand(scene: Scene, size: int, cull: bool) -> _Skin:
    batch, tiles = scene.window.shape[0], -(-size // TILE)
    table = jax.vmap(_cone_table)(scene).reshape(batch * _ROWS, -1)
    sets = jax.vmap(_tile_sets, in_axes=(0, None, None))(scene, size, tiles).reshape(-1)  # (batch * tiles²,)
    if not cull:
        sets = jnp.full_like(sets, 2**body.NUM_CONES - 1)
    group = math.gcd(sets.size, GROUP)
    order = jnp.argsort(jax.lax.population_count(sets))  # like by like
    look = jnp.concatenate(  # (batch, 18) what shading needs of a scene
        [scene.window, scene.light, scene.light_color, scene.ambient[:, None], scene.skin, scene.sleeve, scene.nails], 1
    )

    def trace(which):  # (group,) tiles
        image, tile = which // tiles**2, which % tiles**2
        pixel = np.arange(TILE * TILE)
        u = ((tile % tiles * TILE)[:, None] + pixel % TILE + 0.5) / size - 0.5  # (group, 64)
        v = ((tile // tiles * TILE)[:, None] + pixel // TILE + 0.5) / size - 0.5
        looks = [look[image, i, None] for i in range(look.shape[1])]
        ray = _unit((looks[0] + u * looks[2], looks[1] + v * looks[2], jnp.ones_like(u)))

        def over_cones(step, total):
            """Fold `step(total, cone)` over every tile's cones, the tiles of the group side by side."""

            def next_cone(state):
                left, total = state
                lowest = left & (~left + 1)
                index = jnp.minimum(jax.lax.population_count(lowest - 1), _ROWS - 1).astype(jnp.int32)
                return left ^ lowest, step(total, _read_cone(table[image * _ROWS + index]))

            return jax.lax.while_loop(lambda state: jnp.any(state[0] != 0), next_cone, (sets[which], total))[1]

        nothing = (jnp.full_like(u, _FAR_MM), *[jnp.zeros_like(u)] * 3)
        seen = lambda: _shade(ray, over_cones, looks[3:])  # noqa: E731
        return jax.lax.cond(jnp.any(sets[which] != 0), seen, lambda: nothing)

    traced = jax.lax.map(trace, order.reshape(-1, group))  # fields (groups, group, 64)
    back = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))

    def picture(field):
        field = field.reshape(-1, TILE * TILE)[back].reshape(batch, tiles, tiles, TILE, TILE)
        return field.swapaxes(2, 3).reshape(batch, tiles * TILE, tiles * TILE)

    return _Skin(*(picture(field) for field in traced))


def _shade(ray, over_cones, look):
    """Trace rays to the smooth skin of their cones and light it: distance, red, green, blue."""
    light, light_color, ambient, skin, sleeve_from, sleeve, nails = (
        *(look[0:3], look[3:6], look[6], look[7:10], look[10], look[11:14], look[14:17]),
    )

    def nearest(t, cone):
        return jnp.minimum(t, _meet(ray, cone))

    t = over_cones(nearest, jnp.full_like(ray[0], _FAR_MM))
    hit = t < _FAR_MM / 2
    t = jnp.where(hit, t, 500.0)

    for _ in range(2):  # Newton steps on the smooth minimum of the distances: joints get no creases

        def gather(total, cone):
            return total + jnp.exp(_distance(_times(ray, t), cone)[0] * (-1 / BLEND_MM))

        total = over_cones(gather, jnp.full_like(t, 1e-9))
        t = t + jnp.clip(-BLEND_MM * jnp.log(total), -6, 6) * 0.9

    point = _times(ray, t)

    def blend(total, cone):
        weight, normal, back, crease, nail, covered, rosy = total
        surface, at, offset, length = _distance(point, cone)
        w = jnp.exp(surface * (-1 / BLEND_MM))
        outward = _times(offset, w / length)
        fold = jnp.maximum(1 - at * at * cone.ee * 0.12, 0)
        end = tuple(p - a - 0.78 * e for p, a, e in zip(point, cone.a, cone.e))
        radius = cone.ra + cone.dr
        x, y, z = _dot(end, cone.x), _dot(end, cone.y) - 1, _dot(end, cone.z)
        on_nail = (x * x * 1.64 + y * y * 1.1 < radius * radius) & (z > radius * 0.35) & (surface < 1)
        return (
            weight + w,
            tuple(n + o for n, o in zip(normal, outward)),
            back + _dot(outward, cone.z),
            crease + w * cone.crease * fold,
            jnp.maximum(nail, jnp.where(on_nail, cone.tip, 0.0)),
            covered + w * cone.forearm * (at > sleeve_from),
            rosy + w * cone.rosy * at,
        )

    zero = jnp.zeros_like(t)
    weight, normal, back, crease, nail, covered, rosy = over_cones(blend, (zero + 1e-12, (zero,) * 3, *(zero,) * 5))
    normal = _unit(normal)
    back, crease, covered, rosy = back / weight, crease / weight, covered / weight, rosy / weight

    above = tuple(p + SHADE_MM * n for p, n in zip(point, normal))

    def clearance(free, cone):
        return jnp.minimum(free, _distance(above, cone)[0])

    open_sky = jnp.clip(over_cones(clearance, zero + SHADE_MM) / SHADE_MM, 0, 1)
    open_sky = open_sky * (0.6 + 0.4 * open_sky)

    is_nail, is_sleeve = nail > 0.5, covered > 0.5
    palm = jnp.clip(0.2 - 1.2 * back, 0, 1) * (1 - is_nail)
    facing = _dot(normal, light)
    diffuse = jnp.clip(facing * 0.85 + 0.15, 0, 1)
    half = _unit(tuple(l - r for l, r in zip(light, ray)))
    shine = jnp.clip(_dot(normal, half), 0, 1) ** 16 * jnp.where(is_nail, 0.16, jnp.where(is_sleeve, 0.0, 0.035))
    rim = 1 - jnp.clip(-_dot(normal, ray), 0, 1)
    sky = 0.75 - 0.25 * normal[1]  # more light comes from above
    shade = ambient * open_sky * sky + (1 - ambient) * 1.6 * diffuse * (0.4 + 0.6 * open_sky)
    shade = shade * (1 - 0.25 * rim**3) * jnp.where(is_sleeve, 1.0, 1 - 0.35 * jnp.clip(crease, 0, 1))
    mottled = 1 + 0.025 * wave(0.056 * point[0] + 0.09 * point[1]) * wave(0.07 * point[1] - 0.056 * point[2])
    colors = []
    for channel, (paler, redder) in enumerate(((0.22, 0.10), (0.16, -0.06), (0.15, -0.05))):
        tone = skin[channel] * mottled * (1 + redder * rosy)
        tone = tone + palm * paler * (0.12 + tone) * (1 - tone)
        tone = jnp.where(is_nail, tone * 0.85 + nails[channel], tone)
        tone = jnp.where(is_sleeve, sleeve[channel], tone)
        glow = (0.10, 0.0, -0.03)[channel] * (1 - diffuse)  # light that wandered under the skin comes out red
        colors.append((tone * shade * (1 + glow) + shine) * light_color[channel])
    return (jnp.where(hit, t, _FAR_MM), *colors)


def _meet(ray, cone: _Cone):
    """Distance along unit rays from the origin to a round cone, _FAR_MM where they miss. After I. Quilez' roundCone."""
    ad, ed = _dot(cone.a, ray), _dot(cone.e, ray)
    rb, slope = cone.ra + cone.dr, -cone.dr
    m = -cone.ea
    d2 = cone.ee - slope * slope
    k2 = d2 - ed * ed
    k1 = -d2 * ad - m * ed + ed * slope * cone.ra
    k0 = d2 * cone.aa - m * m + 2 * m * slope * cone.ra - cone.ee * cone.ra * cone.ra
    h = k1 * k1 - k0 * k2
    t = -(jnp.sqrt(jnp.maximum(h, 0)) + k1) / k2
    y = m - cone.ra * slope + t * ed
    start = _meet_ball(ad, cone.aa, cone.ra)
    end = _meet_ball(ad + ed, cone.bb, rb)
    return jnp.where((h > 0) & (y > 0) & (y < d2), t, jnp.minimum(start, end))


def _meet_ball(along, square, radius):
    h = along * along - square + radius * radius
    return jnp.where(h > 0, along - jnp.sqrt(jnp.maximum(h, 0)), _FAR_MM)


def _distance(point, cone: _Cone):
    """Signed distance of points to a cone; where along it (0..1), the offset from its axis and that offset's length."""
    from_start = tuple(p - a for p, a in zip(point, cone.a))
    at = jnp.clip(_dot(from_start, cone.e) / cone.ee, 0, 1)
    offset = tuple(f - at * e for f, e in zip(from_start, cone.e))
    length = jnp.sqrt(_dot(offset, offset) + 1e-6)
    return length - (cone.ra + cone.dr * at), at, offset, length


# ---- everything else ---------------------------------------------------------------------------------------------
@functools.partial(jax.jit, static_argnums=2)
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _compose(scene: Scene, skin: _Skin, size: int) -> Pictures:
    """The scenes' pictures from their traced hands."""
    skin = _Skin(*(field[:size, :size] for field in skin))
    unit = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size - 0.5
    u, v = jnp.broadcast_to(unit[None, :], (size, size)), jnp.broadcast_to(unit[:, None], (size, size))
    ray = (scene.window[0] + u * scene.window[2], scene.window[1] + v * scene.window[2], jnp.ones_like(u))
    length = jnp.sqrt(_dot(ray, ray))
    ray = tuple(r / length for r in ray)

    color, depth = _background(scene, ray, u, v)
    hand_depth = skin.distance / length
    is_hand = skin.distance < jnp.minimum(_FAR_MM / 2, depth * length)
    thing_color, thing_distance = _held_object(scene, ray)
    is_thing = thing_distance < jnp.where(is_hand, skin.distance, jnp.minimum(_FAR_MM / 2, depth * length))
    depth = jnp.where(is_thing, thing_distance / length, jnp.where(is_hand, hand_depth, depth))
    color = [jnp.where(is_hand, s, c) for s, c in zip(skin[1:], color)]
    color = jnp.stack([jnp.where(is_thing, s, c) for s, c in zip(thing_color, color)])  # (3, S, S)

    noise = body.mix(jnp.arange(size * size, dtype=jnp.uint32).reshape(size, size) ^ scene.salt)
    mask = jnp.where(is_thing, 2, jnp.where(is_hand, 1, 0)).astype(jnp.uint8)
    return Pictures(_expose(scene, color, noise), _sense(scene, depth, u, v, noise), depth, mask)


def _background(scene: Scene, ray, u, v):
    """The wall and what lies on it: linear colours (three of (S, S)) and depth."""
    nx, ny, nz, distance = scene.wall
    across = jnp.maximum(nx * ray[0] + ny * ray[1] + nz * ray[2], 0.05)
    wall = distance / across * ray[2]  # depth
    fx, fy, gx, gy, coarse, fine, slope_x, slope_y = scene.wall_pattern
    pattern = 1 + coarse * wave(fx * u + fy * v + 0.2 * wave(0.3 * gx * u)) + fine * wave(gx * u + gy * v + coarse)
    color = tuple(jnp.broadcast_to(c * pattern, u.shape) for c in scene.wall_color)
    near = jnp.max(scene.cones.start @ scene.wall[:3] + scene.cones.start_radius)
    gap = jnp.maximum(distance - near, 0.0)

    def put(total, thing):
        color, lifted = total
        (px, py, sx, sy, c, s, shown, round_, sharp, height, stripes, rate, shadow), tint = thing
        x, y = u - px, v - py
        a, b = (c * x + s * y) / sx, (c * y - s * x) / sy
        edge = jnp.where(round_ > 0, jnp.sqrt(a * a + b * b + 1e-9), jnp.maximum(jnp.abs(a), jnp.abs(b)))
        inside = shown * jnp.clip((1 - edge) * sharp * jnp.minimum(sx, sy) * 4 + 0.5, 0, 1)
        around = 1 - shown * shadow * jnp.clip((1 - edge) * jnp.minimum(sx, sy) * 12 + 1, 0, 1)
        face = 1 + stripes * wave(rate * sx * a) + 0.15 * shadow * (a + b)
        color = tuple(col * around + (t * face - col * around) * inside for col, t in zip(color, tint))
        return (color, jnp.where(inside > 0.5, height, lifted)), None

    (color, lifted), _ = jax.lax.scan(put, (color, jnp.zeros_like(u)), (scene.clutter, scene.clutter_color))
    depth = jnp.minimum(wall * (1 - lifted * jnp.minimum(gap, 120.0) / distance), 5e3)
    light = (0.8 + 0.7 * slope_x * u + 0.7 * slope_y * v) * (0.9 + 0.25 * scene.ambient)
    return [c * light * tint for c, tint in zip(color, scene.light_color)], depth


def _held_object(scene: Scene, ray):
    """The held object: linear colours and the distance along the rays, _FAR_MM where it is missed or there is none."""
    a, e = scene.object_start, scene.object_end - scene.object_start
    ee, ea, aa = jnp.sum(e * e), jnp.sum(e * a), jnp.sum(a * a)
    nothing = jnp.zeros(())
    stick = _Cone(
        tuple(a), tuple(e), scene.object_radius, nothing, ee, ea, aa, jnp.sum(scene.object_end**2), *[None] * 3, *[nothing] * 4
    )
    t_stick = _meet(ray, stick)
    _, at, offset, _ = _distance(_times(ray, t_stick), stick)
    center = (scene.object_start + scene.object_end) / 2
    t_box, box_normal, along = _meet_box(ray, center, scene.object_sides, scene.object_size)
    is_box = scene.object_kind == 2
    t = jnp.where(scene.object_kind == 0, _FAR_MM, jnp.where(is_box, t_box, t_stick))
    normal = tuple(jnp.where(is_box, b, o / scene.object_radius) for b, o in zip(box_normal, offset))
    light = tuple(scene.light)
    diffuse = jnp.clip(_dot(normal, light) * 0.85 + 0.15, 0, 1)
    half = _unit(tuple(l - r for l, r in zip(light, ray)))
    shine = 0.15 * jnp.clip(_dot(normal, half), 0, 1) ** 32
    shade = scene.ambient * (0.75 - 0.25 * normal[1]) + (1 - scene.ambient) * 1.6 * diffuse
    stripe = wave(jnp.where(is_box, along * 0.03, at * 2)) > 0.2
    color = jnp.where(stripe[None], scene.object_color[0][:, None, None], scene.object_color[1][:, None, None])
    return [(c * shade + shine) * tint for c, tint in zip(color, scene.light_color)], t


def _meet_box(ray, center, axes, half):
    """Rays from the origin against an oriented box: distance, normal, and where along its first axis, mm."""
    enter, leave, normal = jnp.zeros_like(ray[0]), jnp.full_like(ray[0], _FAR_MM), tuple(jnp.zeros_like(r) for r in ray)
    for axis in range(3):
        speed = _dot(ray, tuple(axes[axis]))
        speed = jnp.where(jnp.abs(speed) < 1e-6, 1e-6, speed)
        middle, reach = jnp.sum(center * axes[axis]) / speed, jnp.abs(half[axis] / speed)
        first = middle - reach > enter
        normal = tuple(jnp.where(first, -jnp.sign(speed) * n, old) for n, old in zip(axes[axis], normal))
        enter, leave = jnp.maximum(enter, middle - reach), jnp.minimum(leave, middle + reach)
    along = enter * _dot(ray, tuple(axes[0])) - jnp.sum(center * axes[0])
    return jnp.where(enter < leave, enter, _FAR_MM), normal, along


def _expose(scene: Scene, color, noise) -> jax.Array:
    """Linear colours (3, S, S) through lens, film and noise → (S, S, 3) uint8."""
    for axis in (1, 2):
        before = jnp.concatenate([jax.lax.slice_in_dim(color, 0, 1, axis=axis), jax.lax.slice_in_dim(color, 0, -1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(color, 1, None, axis=axis), jax.lax.slice_in_dim(color, -1, None, axis=axis)], axis)
        color = color + scene.blur * (before + after - 2 * color)
    channels = []
    for channel in range(3):
        shown = jnp.sqrt(jnp.clip(color[channel], 0, None))
        grain = ((noise >> (10 * channel)) & 1023).astype(jnp.float32) * np.float32(2 / 1023) - 1
        channels.append(jnp.clip(shown + scene.grain * 1.7 * grain, 0, 1) * 255 + 0.5)
    return jnp.stack(channels, -1).astype(jnp.uint8)


def _sense(scene: Scene, depth, u, v, noise) -> jax.Array:
    """What a depth camera makes of exact depth: noise that grows with the distance, holes and flying pixels at edges,
    a shadow beside near things, a few blobs without measurement, whole millimetres → (S, S) uint16."""
    strength, share, shadow, flying, bias = scene.sensor
    padded = jnp.pad(depth, 1, mode="edge")
    sides = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    low, high = jnp.minimum(jnp.minimum(*sides[:2]), jnp.minimum(*sides[2:])), jnp.maximum(jnp.maximum(*sides[:2]), jnp.maximum(*sides[2:]))
    footprint = scene.window[2] / depth.shape[0] * depth  # mm a pixel
    edge = jnp.maximum(high - depth, depth - low) > 4 * footprint + 6  # a step, or a surface seen at more than 75°
    again = body.mix(noise)
    chance = lambda shift: ((again >> shift) & 255).astype(jnp.float32) * np.float32(1 / 256)  # noqa: E731
    hole = edge & (chance(0) < share)
    left = jnp.where(shadow > 1, jnp.pad(depth, ((0, 0), (2, 0)), mode="edge")[:, :-2], jnp.pad(depth, ((0, 0), (1, 0)), mode="edge")[:, :-1])
    hole |= (shadow > 0) & (left < depth * 0.93) & (chance(8) < 0.8)
    for x, y, radius in scene.blobs:
        hole |= (u - x) ** 2 + (v - y) ** 2 < radius * radius * (0.6 + 0.8 * chance(16))
    hole |= (chance(24) < 0.003) | (depth > 4e3)
    gauss = (chance(0) + chance(8) + chance(16) + chance(24) - 2) * np.float32(np.sqrt(3))
    seen = jnp.where(edge & (chance(16) < flying), 0.5 * (low + high), depth)
    seen = seen + bias + strength * (depth / 500) ** 2 * gauss
    return jnp.where(hole, 0, jnp.round(seen)).astype(jnp.uint16)


def _dot(u, v):
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


def _times(vector, scalar):
    return tuple(component * scalar for component in vector)


def _unit(vector):
    return _times(vector, jax.lax.rsqrt(_dot(vector, vector) + 1e-12))


def wave(x):
    """A sine of period 1 made of two parabolas, a fifth of the cost."""
    x = x - jnp.floor(x) - 0.5
    return 16 * x * (jnp.abs(x) - 0.5)
