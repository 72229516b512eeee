"""Ray tracing of the hand: intersections of rays with round cones under a smooth skin, and shading of the skin.

The image is divided into tiles of 8x8 pixels. For each tile, the bits of one integer are the set of cones that its rays
may hit. Tiles with sets of similar size are traced together, in a loop over the cones of the largest set. So no cone is
left out, and empty tiles cost nothing.
"""

import functools
import math
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxhand.data.synthetic.scene import Scene
from jaxhand.hand.builtin import body

TILE, GROUP = 8, 128  # side of a tile, px; number of tiles that are traced together
BLEND_MM = 2.6  # width of the smooth minimum that joins the cones
SHADE_MM = 7.0  # parts of the hand that are nearer to the skin than this make the skin darker
FAR_MM = 1e5  # distance of a ray that hits nothing
_MARGIN_MM = 9.0  # largest distance at which a cone still blends with other cones or darkens them
_ROWS = 32  # rows of the table of cones: 28 cones, then padding that no ray hits


class Cone(typing.NamedTuple):
    """A round cone with precomputed terms; the camera is the origin. Start a, end b and e = b - a are in mm.

    ee, ea, aa and bb are scalar products: e·e, e·a, a·a, b·b. Vectors are tuples of three components.
    """

    a: tuple
    e: tuple
    ra: jax.Array  # radius at the start, mm
    dr: jax.Array  # end radius - start radius
    ee: jax.Array
    ea: jax.Array
    aa: jax.Array
    bb: jax.Array
    x: tuple | None  # bone axes
    y: tuple | None
    z: tuple | None
    tip: jax.Array  # 1 for the last bone of a finger, which has a nail, else 0
    crease: jax.Array  # 1 for cones whose start is a joint with folded skin, else 0
    forearm: jax.Array  # 1 for the forearm, which a sleeve may cover, else 0
    rosy: jax.Array  # how much redder the skin is at the cone's end


class TracedHand(typing.NamedTuple):
    """Distance and colour of the hand's lit surface, (B, P, P) each. P is the image size, rounded up to full tiles."""

    distance: jax.Array  # mm along the ray; FAR_MM for rays that miss the hand
    red: jax.Array
    green: jax.Array
    blue: jax.Array


def _cone_table(scene: Scene) -> jax.Array:
    """Return the cones of one scene as a table (_ROWS, columns). The columns are the fields of `Cone`."""
    a, b, ra, rb = scene.cones
    e = b - a
    frame = scene.frames[body.BONE_OF_CONE]  # (28, 3, 3)
    level = np.where(body.IS_DIGIT, np.arange(body.NUM_CONES) % 3, 0)
    marks = np.stack([body.IS_TIP, level > 0, body.IS_FOREARM, body.IS_TIP], 1).astype(np.float32)
    products = [jnp.sum(u * v, -1, keepdims=True) for u, v in ((e, e), (e, a), (a, a), (b, b))]
    columns = [a, e, ra[:, None], (rb - ra)[:, None], *products]
    columns += [frame[:, :, 0], frame[:, :, 1], frame[:, :, 2], marks]
    table = jnp.concatenate(columns, 1)  # (28, 25)
    padding = np.zeros(table.shape[1], np.float32)
    padding[[2, 5, 6]], padding[8], padding[10:12] = (FAR_MM, 1, 1e-3), 1, FAR_MM**2  # a tiny, very distant cone
    return jnp.concatenate([table, jnp.tile(padding, (_ROWS - body.NUM_CONES, 1))])


def _read_cone(row: jax.Array) -> Cone:
    """Convert rows (n, columns) of the table to fields (n, 1), which broadcast over the pixels of a tile."""
    column = iter(row[:, i, None] for i in range(row.shape[1]))
    three = lambda: (next(column), next(column), next(column))  # noqa: E731
    one = lambda: next(column)  # noqa: E731
    return Cone(three(), three(), one(), one(), one(), one(), one(), one(), three(), three(), three(), *column)


def _tile_sets(scene: Scene, size: int, tiles: int) -> jax.Array:
    """Return one set of cones per tile of a scene, (tiles * tiles,) uint32: bit c is set if rays may hit cone c."""
    a, b, ra, rb = scene.cones
    start, end = a[:, :2] / a[:, 2:], b[:, :2] / b[:, 2:]  # (28, 2) at z = 1
    # A ball of radius r at depth z projects to a disc of radius r / z, or up to 10 % more near the image's corners.
    radius = 1.1 * jnp.maximum((ra + _MARGIN_MM) / a[:, 2], (rb + _MARGIN_MM) / b[:, 2])
    along = end - start
    x, y, side = scene.window
    center = ((np.arange(tiles, dtype=np.float32) + 0.5) * TILE / size - 0.5) * side
    dx = (x + jnp.tile(center, tiles))[:, None] - start[:, 0]  # (tiles², 28)
    dy = (y + jnp.repeat(center, tiles))[:, None] - start[:, 1]
    place = jnp.clip((dx * along[:, 0] + dy * along[:, 1]) / (jnp.sum(along**2, -1) + 1e-9), 0, 1)  # 0: start, 1: end
    square = (dx - place * along[:, 0]) ** 2 + (dy - place * along[:, 1]) ** 2
    may_hit = square < (radius + side * TILE / size * 0.7072) ** 2  # radius of the tile: half its diagonal
    bits = np.uint32(1) << np.arange(body.NUM_CONES, dtype=np.uint32)
    return jnp.sum(jnp.where(may_hit, bits, np.uint32(0)), -1, dtype=jnp.uint32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def trace_hand(scene: Scene, size: int, cull: bool) -> TracedHand:
    """Trace the hands of scenes.

    Args:
        scene: B scenes; all fields have a leading axis B.
        size: side of the square images, px.
        cull: True: each tile only tests the cones in its set. False: all rays test all cones.
    """
    batch, tiles = scene.window.shape[0], -(-size // TILE)
    table = jax.vmap(_cone_table)(scene).reshape(batch * _ROWS, -1)
    sets = jax.vmap(_tile_sets, in_axes=(0, None, None))(scene, size, tiles).reshape(-1)  # (batch * tiles²,)
    if not cull:
        sets = jnp.full_like(sets, 2**body.NUM_CONES - 1)
    group = math.gcd(sets.size, GROUP)
    order = jnp.argsort(jax.lax.population_count(sets))  # sorted by the size of the set
    shading = jnp.concatenate(  # (batch, 18): the fields of scenes that shading needs
        [scene.window, scene.light, scene.light_color, scene.ambient[:, None], scene.skin, scene.sleeve, scene.nails], 1
    )

    def trace(which):  # (group,) tiles
        image, tile = which // tiles**2, which % tiles**2
        pixel = np.arange(TILE * TILE, dtype=np.float32)
        corner_u, corner_v = tile % tiles * TILE, tile // tiles * TILE
        u = (corner_u[:, None] + (pixel % TILE + np.float32(0.5))) / size - 0.5  # (group, 64)
        v = (corner_v[:, None] + (pixel // TILE + np.float32(0.5))) / size - 0.5
        columns = [shading[image, i, None] for i in range(shading.shape[1])]
        ray = unit((columns[0] + u * columns[2], columns[1] + v * columns[2], jnp.ones_like(u)))

        def over_cones(step, total):
            """Return `total` after `total = step(total, cone)` for each cone of a tile. All tiles run in parallel."""

            def next_cone(state):
                remaining, total = state
                lowest = remaining & (~remaining + 1)
                index = jnp.minimum(jax.lax.population_count(lowest - 1), _ROWS - 1).astype(jnp.int32)
                return remaining ^ lowest, step(total, _read_cone(table[image * _ROWS + index]))

            return jax.lax.while_loop(lambda state: jnp.any(state[0] != 0), next_cone, (sets[which], total))[1]

        nothing = (jnp.full_like(u, FAR_MM), *[jnp.zeros_like(u)] * 3)
        shaded = lambda: _shade(ray, over_cones, columns[3:])  # noqa: E731
        return jax.lax.cond(jnp.any(sets[which] != 0), shaded, lambda: nothing)

    traced = jax.lax.map(trace, order.reshape(-1, group))  # fields (groups, group, 64)
    inverse = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))

    def to_image(field):
        field = field.reshape(-1, TILE * TILE)[inverse].reshape(batch, tiles, tiles, TILE, TILE)
        return field.swapaxes(2, 3).reshape(batch, tiles * TILE, tiles * TILE)

    return TracedHand(*(to_image(field) for field in traced))


def _shade(ray: tuple, over_cones: typing.Callable, shading: list[jax.Array]) -> tuple[jax.Array, ...]:
    """Trace rays to the smooth skin over the cones, and compute the colour of the skin there.

    Args:
        ray: unit vectors, three components (group, 64).
        over_cones: `over_cones(step, total)` calls total = step(total, cone) for all cones of each tile.
        shading: light (3), light colour (3), ambient, skin (3), sleeve (4), nails (3), each (group, 1).

    Returns:
        distance, red, green, blue, (group, 64) each.
    """
    light, light_color, ambient, skin = shading[0:3], shading[3:6], shading[6], shading[7:10]
    sleeve_start, sleeve, nails = shading[10], shading[11:14], shading[14:17]

    def nearest(t, cone):
        return jnp.minimum(t, intersect_cone(ray, cone))

    t = over_cones(nearest, jnp.full_like(ray[0], FAR_MM))
    hit = t < FAR_MM / 2
    t = jnp.where(hit, t, 500.0)

    for _ in range(2):  # Newton steps to the smooth minimum of the distances, which has no creases at joints

        def gather(total, cone):
            return total + jnp.exp(distance(scaled(ray, t), cone)[0] * (-1 / BLEND_MM))

        total = over_cones(gather, jnp.full_like(t, 1e-9))
        t = t + jnp.clip(-BLEND_MM * jnp.log(total), -6, 6) * 0.9

    point = scaled(ray, t)

    def blend(total, cone):
        weight, normal, back, crease, nail, covered, rosy = total
        surface, along, offset, length = distance(point, cone)
        w = jnp.exp(surface * (-1 / BLEND_MM))
        outward = scaled(offset, w / length)
        fold = jnp.maximum(1 - along * along * cone.ee * 0.12, 0)
        end = tuple(p - a - 0.78 * e for p, a, e in zip(point, cone.a, cone.e))
        radius = cone.ra + cone.dr
        x, y, z = dot(end, cone.x), dot(end, cone.y) - 1, dot(end, cone.z)
        on_nail = (x * x * 1.64 + y * y * 1.1 < radius * radius) & (z > radius * 0.35) & (surface < 1)
        return (
            weight + w,
            tuple(n + o for n, o in zip(normal, outward)),
            back + dot(outward, cone.z),
            crease + w * cone.crease * fold,
            jnp.maximum(nail, jnp.where(on_nail, cone.tip, 0.0)),
            covered + w * cone.forearm * (along > sleeve_start),
            rosy + w * cone.rosy * along,
        )

    zero = jnp.zeros_like(t)
    weight, normal, back, crease, nail, covered, rosy = over_cones(blend, (zero + 1e-12, (zero,) * 3, *(zero,) * 5))
    normal = unit(normal)
    back, crease, covered, rosy = back / weight, crease / weight, covered / weight, rosy / weight

    above = tuple(p + SHADE_MM * n for p, n in zip(point, normal))

    def clearance(free, cone):
        return jnp.minimum(free, distance(above, cone)[0])

    open_sky = jnp.clip(over_cones(clearance, zero + SHADE_MM) / SHADE_MM, 0, 1)
    open_sky = open_sky * (0.6 + 0.4 * open_sky)

    is_nail, is_sleeve = nail > 0.5, covered > 0.5
    palm = jnp.clip(0.2 - 1.2 * back, 0, 1) * (1 - is_nail)
    facing = dot(normal, light)
    diffuse = jnp.clip(facing * 0.85 + 0.15, 0, 1)
    half = unit(tuple(a - b for a, b in zip(light, ray)))
    shine = jnp.clip(dot(normal, half), 0, 1) ** 16 * jnp.where(is_nail, 0.16, jnp.where(is_sleeve, 0.0, 0.035))
    rim = 1 - jnp.clip(-dot(normal, ray), 0, 1)
    sky = 0.75 - 0.25 * normal[1]  # y points down: more light comes from above
    shade = ambient * open_sky * sky + (1 - ambient) * 1.6 * diffuse * (0.4 + 0.6 * open_sky)
    shade = shade * (1 - 0.25 * rim**3) * jnp.where(is_sleeve, 1.0, 1 - 0.35 * jnp.clip(crease, 0, 1))
    mottled = 1 + 0.025 * wave(0.056 * point[0] + 0.09 * point[1]) * wave(0.07 * point[1] - 0.056 * point[2])
    colors = []
    for channel, (paler, redder) in enumerate(((0.22, 0.10), (0.16, -0.06), (0.15, -0.05))):
        tone = skin[channel] * mottled * (1 + redder * rosy)
        tone = tone + palm * paler * (0.12 + tone) * (1 - tone)
        tone = jnp.where(is_nail, tone * 0.85 + nails[channel], tone)
        tone = jnp.where(is_sleeve, sleeve[channel], tone)
        glow = (0.10, 0.0, -0.03)[channel] * (1 - diffuse)  # light that scatters under the skin is red
        colors.append((tone * shade * (1 + glow) + shine) * light_color[channel])
    return (jnp.where(hit, t, FAR_MM), *colors)


def intersect_cone(ray: tuple, cone: Cone) -> jax.Array:
    """Return the distance along unit rays from the origin to a round cone, mm; FAR_MM for rays that miss the cone.

    Formula: I. Quilez, "Rounded Cone - intersection" (iquilezles.org/articles/intersectors).
    """
    ad, ed = dot(cone.a, ray), dot(cone.e, ray)
    rb, slope = cone.ra + cone.dr, -cone.dr
    m = -cone.ea
    d2 = cone.ee - slope * slope
    k2 = d2 - ed * ed
    k1 = -d2 * ad - m * ed + ed * slope * cone.ra
    k0 = d2 * cone.aa - m * m + 2 * m * slope * cone.ra - cone.ee * cone.ra * cone.ra
    h = k1 * k1 - k0 * k2
    t = -(jnp.sqrt(jnp.maximum(h, 0)) + k1) / k2
    y = m - cone.ra * slope + t * ed
    start = _intersect_sphere(ad, cone.aa, cone.ra)
    end = _intersect_sphere(ad + ed, cone.bb, rb)
    return jnp.where((h > 0) & (y > 0) & (y < d2), t, jnp.minimum(start, end))


def _intersect_sphere(along: jax.Array, square: jax.Array, radius: jax.Array) -> jax.Array:
    """Return the distance along unit rays to a sphere; `along` is centre · ray, `square` is centre · centre."""
    h = along * along - square + radius * radius
    return jnp.where(h > 0, along - jnp.sqrt(jnp.maximum(h, 0)), FAR_MM)


def distance(point: tuple, cone: Cone) -> tuple[jax.Array, jax.Array, tuple, jax.Array]:
    """Return the distance from points to a cone, mm, negative inside.

    Returns:
        The distance; the position along the axis, 0 to 1; the offset vector from the axis; the length of this vector.
    """
    from_start = tuple(p - a for p, a in zip(point, cone.a))
    along = jnp.clip(dot(from_start, cone.e) / cone.ee, 0, 1)
    offset = tuple(f - along * e for f, e in zip(from_start, cone.e))
    length = jnp.sqrt(dot(offset, offset) + 1e-6)
    return length - (cone.ra + cone.dr * along), along, offset, length


def dot(u: Sequence[jax.Array], v: Sequence[jax.Array]) -> jax.Array:
    """Return the scalar product of two vectors, given as tuples of components."""
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


def scaled(vector: Sequence[jax.Array], scalar: ArrayLike) -> tuple:
    """Multiply a vector, given as a tuple of components, by a number."""
    return tuple(component * scalar for component in vector)


def unit(vector: Sequence[jax.Array]) -> tuple:
    """Scale a vector, given as a tuple of components, to length 1."""
    return scaled(vector, jax.lax.rsqrt(dot(vector, vector) + 1e-12))


def wave(x: jax.Array) -> jax.Array:
    """Return a periodic wave of period 1, made of two parabolas. It resembles a sine, at a fifth of the cost."""
    x = x - jnp.floor(x) - 0.5
    return 16 * x * (jnp.abs(x) - 0.5)
