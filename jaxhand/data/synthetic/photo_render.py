"""Render photograph-like scenes: geometry and ray tracing in JAX for many images, then each image alone in NumPy."""

import concurrent.futures
import os

import jax
import numpy as np
import tqdm

from jaxhand.data.synthetic import (
    backgrounds,
    camera_effects,
    clothing,
    grasp,
    photo_hand,
    photo_light,
    photo_scene,
    raytrace,
    render,
    scene,
    skin_map,
    solids,
    surfaces,
)
from jaxhand.data.synthetic.photo_scene import PARTS
from jaxhand.hand.builtin import body

CHUNK = 16  # images that are traced together
_MODULES = (backgrounds, body, camera_effects, clothing, grasp, photo_hand, photo_light, photo_scene, raytrace, render)
_MODULES += (scene, skin_map, solids, surfaces)
SOURCES = (__file__, *(str(module.__file__) for module in _MODULES))  # files whose code decides what the images show
_NEAR_WALL, _FAR_WALL = 8.0, 2000.0  # mm behind the farthest point of the hand
_OCCLUDER_MM = 40.0  # in front of the nearest point of the hand


def render_range(
    seed: int,
    first: int,
    count: int,
    *,
    size: int,
    parts: frozenset[str] = frozenset(PARTS),
    folder: str = "",
    exact: bool = False,
    bar: bool = False,
) -> dict[str, np.ndarray]:
    """Render the scenes first, …, first + count - 1.

    Args:
        seed: of the data set.
        size: side of the square images, px.
        first: index of the first scene.
        count: number of scenes.
        parts: those of `PARTS` that are switched on.
        folder: own photographs for the backgrounds; "": drawn ones.
        exact: return `mask` (N, S, S) uint8 as well: 0 background and other things, 1 the labelled hand.
        bar: show a progress bar on stderr.

    Returns:
        The arrays of a `photo.PhotoSet`.
    """
    arrays: dict[str, np.ndarray] = {}

    def fill(start: int) -> int:
        done = min(CHUNK, count - start)
        chunk = _render_chunk(seed, first + start + np.arange(CHUNK), done, size, parts, folder)
        for key, value in chunk.items():
            if exact or key != "mask":
                arrays.setdefault(key, np.empty((count, *value.shape[1:]), value.dtype))
                arrays[key][start : start + done] = value
        return done

    with tqdm.tqdm(total=count, desc="rendering photographs", unit="img", disable=None if bar else True) as progress:
        progress.update(fill(0))  # the first call compiles the programs for all threads
        pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        try:
            pending = [pool.submit(fill, start) for start in range(CHUNK, count, CHUNK)]
            for future in concurrent.futures.as_completed(pending):
                progress.update(future.result())
        finally:
            pool.shutdown(cancel_futures=True)
    return arrays


def _render_chunk(seed: int, index: np.ndarray, done: int, size: int, parts: frozenset[str], folder: str) -> dict:
    """Render the first `done` of the scenes `index` (B,). The geometry is computed on the CPU in float32."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]), jax.enable_x64(False):
        scenes = photo_scene.sample(seed, index, parts)
        traced = np.asarray(raytrace.trace_hand(scenes.hand, size, True).distance)[:, :size, :size]
        others = np.asarray(scenes.has_other)[:done]
        second = (
            np.asarray(raytrace.trace_hand(scenes.other, size, True).distance)[:, :size, :size]
            if others.any()
            else traced
        )
    scenes = jax.tree.map(np.asarray, scenes)
    K = render.intrinsics(scenes.hand.window, size)
    rows = []
    for i in range(done):
        one = jax.tree.map(lambda field: field[i], scenes)
        image, depth, mask = _photograph(
            seed, int(index[i]), one, traced[i], second[i] if others[i] else None, parts, folder
        )
        joints, camera = one.hand.joints, K[i]
        if one.is_left:
            image, depth, mask = (np.ascontiguousarray(array[:, ::-1]) for array in (image, depth, mask))
            joints = joints * np.array([-1, 1, 1], np.float32)
            camera = camera.copy()
            camera[0, 2] = size - 1 - camera[0, 2]
        row = {"image": image, "depth": depth, "K": camera, "keypoints_3d": joints, "mask": mask}
        row |= {"pose": one.hand.pose, "shape": one.hand.shape, "turn": one.hand.frames[0]}
        rows.append(row | {"left": np.uint8(one.is_left)})
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _photograph(
    seed: int,
    index: int,
    one: photo_scene.PhotoScene,
    traced: np.ndarray,
    second: np.ndarray | None,
    parts,
    folder: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one image that is not mirrored yet.

    Args:
        seed, index, parts, folder: as for `_render_chunk`.
        one: the scene, NumPy arrays.
        traced: (S, S) mm along the rays, the labelled hand.
        second: the same of the second hand; None: there is no second hand.

    Returns:
        Image (S, S, 3) uint8, depth (S, S) uint16 mm and mask (S, S) uint8.
    """
    streams = {part: np.random.default_rng([seed, index, number]) for number, part in enumerate((*PARTS, "depth"))}
    ray = surfaces.rays(np.asarray(one.hand.window), len(traced))
    skin = skin_map.skin_of(seed, int(streams["skin"].integers(skin_map.PEOPLE)))  # both hands are one person's
    visible = _dressed_hand(streams, skin, one.hand, traced, ray, parts)
    if second is not None:
        visible = surfaces.nearest(visible, _dressed_hand(streams, skin, one.other, second, ray, parts))
    if one.solid.kind != grasp.NOTHING:
        visible = surfaces.nearest(visible, solids.solid_surface(streams["objects"], one.solid, ray))
    known = visible.distance < raytrace.FAR_MM / 2
    mask = known & (visible.distance == traced)

    depth = visible.distance * ray[..., 2]
    gap = np.exp(streams["depth"].uniform(np.log(_NEAR_WALL), np.log(_FAR_WALL)))
    wall = np.float32(depth[known].max(initial=300.0) + gap)
    depth = np.where(known, depth, wall)
    light = _lit(streams, one.hand, visible, known, depth, ray, parts, folder)
    if "occluders" in parts:
        light, covered = backgrounds.occlude(streams["occluders"], light)
        mask &= ~covered
        depth[covered] = max(depth.min() - _OCCLUDER_MM, 50.0)
    develop = camera_effects.develop if "camera" in parts else camera_effects.perfect
    noise = 1.5 * (depth / 500) ** 2 * streams["depth"].standard_normal(depth.shape, np.float32)
    depth = np.clip(np.rint(depth + noise), 0, 65535).astype(np.uint16)
    return develop(streams["camera"], light), depth, mask.astype(np.uint8)


def _dressed_hand(
    streams: dict[str, np.random.Generator], skin: np.ndarray, hand: scene.Scene, traced: np.ndarray, ray, parts
) -> surfaces.Surface:
    """Return the surface of one traced hand, with its skin, of `skin_map.skin_of`, and its clothes."""
    found = photo_hand.map_hand(hand, traced, ray)
    if "skin" in parts:
        surface = photo_hand.detailed_hand(streams["skin"], found, hand, traced, skin)
    else:
        surface = photo_hand.smooth_hand(found, hand, traced)
    return clothing.dress(streams["clothing"], surface, found) if "clothing" in parts else surface


def _lit(streams, hand: scene.Scene, visible: surfaces.Surface, known, depth, ray, parts, folder: str) -> np.ndarray:
    """Return the linear light (S, S, 3) of the visible surfaces before their background."""
    size, window, rng = len(depth), np.asarray(hand.window), streams["backgrounds"]
    if "backgrounds" in parts:
        behind = backgrounds.draw(rng, size, folder)
    else:
        behind = np.broadcast_to(np.float32(hand.wall_color), ray.shape)
    if "lighting" in parts:
        lights = photo_light.draw(streams["lighting"])
        lit = photo_light.cast(depth / ray[..., 2], ray, visible.normal, lights, window)
    else:
        lights = photo_light.single(np.asarray(hand.light), np.asarray(hand.light_color), float(hand.ambient))
        lit = np.ones_like(depth)
    light = photo_light.shade(visible, ray, window, lights, lit)
    return np.where(known[..., None], light, behind * (0.45 + 0.55 * lit[..., None]))
