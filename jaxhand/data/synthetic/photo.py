"""The photograph-like synthetic set: hands as cameras take them, as a teacher for networks that read photographs.

`synthetic-photo` as a data set. Each image is a pure function of (seed, index) and of the parts that are switched on.
`python -m jaxhand.data.synthetic.photo --preview sheet.png` writes a sheet of examples.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import os
import sys
import time
import typing
from pathlib import Path

import jax
import numpy as np
import tqdm

from jaxhand.config import UserError, cache_folder
from jaxhand.data.record import Record
from jaxhand.data.synthetic import (
    backgrounds,
    camera_effects,
    dataset,
    grasp,
    photo_light,
    photo_scene,
    photo_surface,
    raytrace,
    render,
    scene,
    skin_map,
)
from jaxhand.data.synthetic.photo_scene import PARTS
from jaxhand.hand import draw
from jaxhand.hand.builtin import body
from jaxhand.hand.camera import project
from jaxhand.io import array_file, files

CHUNK = 16  # images that are traced together
MARGIN = 0.12  # of the box around the joints, as a fraction of its longer side: the flesh around them
_MODULES = (
    backgrounds,
    camera_effects,
    grasp,
    photo_light,
    photo_scene,
    photo_surface,
    raytrace,
    render,
    scene,
    skin_map,
)
# Hash of the code that renders the images, as in `dataset`. It is computed at import.
_CODE_VERSION = files.code_fingerprint(__file__, body.__file__, *(str(module.__file__) for module in _MODULES))[:8]


class PhotoSet(dataset.SyntheticSet):
    """Photograph-like renders as a source of records. Half of the hands are left hands.

    Attributes:
        arrays: as of `SyntheticSet`, and `left` (N,) uint8, 1 for a left hand. Pose, shape and turn are those of the
            right hand that is mirrored then.
    """

    def __init__(self, arrays: dict[str, np.ndarray], name: str, mesh: bool = False):
        super().__init__(arrays, name, crop_scale=1.0, mesh=mesh)
        self._left = arrays["left"]

    def __getitem__(self, i: int) -> Record:
        """Return record i. Its `bbox` is that of the joints, enlarged by `MARGIN`."""
        record = super().__getitem__(i)
        uv = project(record.keypoints_3d, record.K)
        low, high = uv.min(0), uv.max(0)
        margin = MARGIN * (high - low).max()
        record = dataclasses.replace(record, bbox=np.float32([*(low - margin), *(high + margin)]))
        if not self._left[i]:
            return record
        mirrored: dict[str, typing.Any] = {"hand": "left"}
        if record.vertices is not None and record.mano_pose is not None:
            mirrored["vertices"] = record.vertices * np.float32([-1, 1, 1])
            mirrored["mano_pose"] = (record.mano_pose.reshape(16, 3) * np.float32([1, -1, -1])).reshape(48)
        return dataclasses.replace(record, **mirrored)


def load(
    split: str,
    count: int,
    *,
    size: int = 224,
    seed: int = 0,
    without: typing.Sequence[str] = (),
    background_folder: str = "",
    cache: str | Path | None = None,
    mesh: bool = False,
    progress: typing.Callable[[str], None] | None = None,
) -> PhotoSet:
    """Return the first `count` photographs of a split. They are rendered if they are not in the cache.

    Args:
        split, count, seed, cache, mesh, progress: as for `dataset.load`.
        size: side of the square images, px, 32 to 1024.
        without: parts of `photo_scene.PARTS` that are switched off.
        background_folder: folder of own photographs for the backgrounds; "": drawn backgrounds.

    Raises:
        UserError: an argument is not one of the values above, or the folder has no image.
    """
    parts = _checked(split, count, size, without)
    say = progress or (lambda line: print(line, file=sys.stderr, flush=True))
    name = f"synthetic-photo-{split}"
    variant = "".join(f"-no_{part}" for part in PARTS if part not in parts)
    if background_folder:
        listed = "\n".join(f"{file} {file.stat().st_size}" for file in backgrounds.photographs_of(background_folder))
        variant += f"-backgrounds{hashlib.sha256(listed.encode()).hexdigest()[:8]}"
    file = Path(cache or cache_folder()) / f"{name}-{size}px-{count}-seed{seed}{variant}-{_CODE_VERSION}.hands"
    try:
        return PhotoSet(array_file.read(file), name, mesh)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, array_file.DamagedError) as error:
        say(f"cannot use cached hands {file}: {error}; rendering them again")
    started = time.monotonic()
    first = dataset.FIRST_INDEX[split]
    arrays = render_range(seed, first, count, size=size, parts=parts, folder=background_folder, bar=progress is None)
    say(f"rendered {count} hands of {name} in {time.monotonic() - started:.0f} s")
    try:
        array_file.write(file, arrays)
    except OSError as error:
        say(f"cannot keep rendered hands in {file.parent}: {error.strerror or error}; they stay in memory")
    return PhotoSet(arrays, name, mesh)


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
        seed, size: as for `load`.
        first: index of the first scene.
        count: number of scenes.
        parts: those of `PARTS` that are switched on.
        folder: as `background_folder` of `load`.
        exact: return `mask` (N, S, S) uint8 as well: 0 background and other things, 1 the labelled hand.
        bar: show a progress bar on stderr.

    Returns:
        The arrays of a `PhotoSet`.
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
            joints = joints * np.float32([-1, 1, 1])
            camera = camera.copy()
            camera[0, 2] = size - 1 - camera[0, 2]
        row = {"image": image, "depth": depth, "K": camera, "keypoints_3d": joints, "mask": mask}
        row |= {"pose": one.hand.pose, "shape": one.hand.shape, "turn": one.hand.frames[0]}
        rows.append(row | {"left": np.uint8(one.is_left)})
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _photograph(seed: int, index: int, one: photo_scene.PhotoScene, traced, second, parts: frozenset[str], folder: str):
    """Return image (S, S, 3) uint8, depth (S, S) uint16 mm and mask (S, S) uint8 of one scene, not mirrored."""
    streams = {part: np.random.default_rng([seed % 2**32, index, number]) for number, part in enumerate(PARTS)}
    size, window = len(traced), one.hand.window
    ray = photo_surface.rays(window, size)
    drawn = skin_map.skin_of(seed % 2**32, int(streams["skin"].integers(skin_map.PEOPLE)))
    surfaces = []
    for hand, distance in ((one.hand, traced), (one.other, second)):
        if distance is None:
            continue
        found = photo_surface.map_hand(hand, distance, ray)
        if "skin" in parts:
            surface = photo_surface.detailed_hand(streams["skin"], found, hand, distance, drawn)
        else:
            surface = photo_surface.smooth_hand(found, hand, distance)
        surfaces.append(photo_surface.dress(streams["clothing"], surface, found) if "clothing" in parts else surface)
    if one.solid.kind != grasp.NOTHING:
        surfaces.append(photo_surface.solid_surface(streams["objects"], one.solid, ray))
    combined = surfaces[0]
    for surface in surfaces[1:]:
        combined = photo_surface.nearest(combined, surface)
    mask = (combined.distance == traced) & (traced < raytrace.FAR_MM / 2)

    rng = streams["lighting"]
    if "lighting" in parts:
        lights = photo_light.draw(rng)
    else:
        lights = photo_light.single(one.hand.light, one.hand.light_color, one.hand.ambient)
    known = combined.distance < raytrace.FAR_MM / 2
    far = float((combined.distance * ray[..., 2])[known].max(initial=300.0))
    wall = np.float32(far + np.exp(rng.uniform(np.log(8), np.log(2000)))) / ray[..., 2]  # along the ray, mm
    lit = np.ones_like(traced)
    distance = np.where(known, combined.distance, wall)
    if "lighting" in parts:
        lit = photo_light.cast(distance, ray, combined.normal, lights, window)
    light = photo_light.shade(combined, ray, window, lights, lit)
    if "backgrounds" in parts:
        behind = backgrounds.draw(streams["backgrounds"], size, folder)
    else:
        behind = np.broadcast_to(np.float32(one.hand.wall_color), light.shape)
    light = np.where(known[..., None], light, behind * (0.45 + 0.55 * lit[..., None]))
    if "occluders" in parts:
        light, covered = backgrounds.occlude(streams["occluders"], light)
        mask = mask & ~covered
    rng = streams["camera"]
    image = camera_effects.develop(rng, light) if "camera" in parts else camera_effects.plain(light)
    depth = distance * ray[..., 2]
    depth = depth + rng.standard_normal(depth.shape, np.float32) * 1.5 * (depth / 500) ** 2
    return image, np.clip(np.rint(depth), 0, 65535).astype(np.uint16), mask.astype(np.uint8)


def _checked(split: str, count: int, size: int, without: typing.Sequence[str]) -> frozenset[str]:
    if split not in dataset.FIRST_INDEX:
        raise UserError(f"the synthetic data set has the splits {', '.join(dataset.FIRST_INDEX)}, not {split!r}")
    if not 1 <= count <= dataset.MAX_COUNT:
        raise UserError(f"the synthetic data set has 1 to 2^30 hands, not {count}")
    if not 32 <= size <= 1024:
        raise UserError(f"the data set synthetic-photo has images of 32 to 1024 px, not {size}")
    if unknown := [part for part in without if part not in PARTS]:
        raise UserError(f"the data set synthetic-photo has the parts {', '.join(PARTS)}, not {unknown[0]!r}")
    return frozenset(PARTS) - set(without)


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxhand.data.synthetic.photo", description=__doc__)
    parser.add_argument("--preview", metavar="PNG", required=True, help="a sheet of images with and without skeletons")
    parser.add_argument("--without", nargs="*", default=[], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--backgrounds", default="", metavar="FOLDER", help="own photographs for the backgrounds")
    parser.add_argument("--size", type=int, default=224, help="side of an image, px (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other hands (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="index of the first hand (%(default)s)")
    parser.add_argument("--count", type=int, default=32, help="how many hands (%(default)s)")
    parser.add_argument("--columns", type=int, default=8, help="hands in a row of the sheet (%(default)s)")
    parser.add_argument("--skeletons", action="store_true", help="draw the labelled joints")
    try:
        args = parser.parse_args(argv)
        parts = _checked("train", args.count, args.size, args.without)
        if args.backgrounds:
            backgrounds.photographs_of(args.backgrounds)
        arrays = render_range(args.seed, args.first, args.count, size=args.size, parts=parts, folder=args.backgrounds)
        cells = list(arrays["image"])
        if args.skeletons:
            joints = project(arrays["keypoints_3d"], arrays["K"])
            cells = [draw.draw_skeleton(image, uv) for image, uv in zip(cells, joints)]
        draw.write_png(args.preview, draw.grid(cells, columns=args.columns))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
