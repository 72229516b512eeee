"""The synthetic data set: labelled images without a download. Each image is a pure function of (seed, index).

`python -m jaxhand.data.synthetic --preview sheet.png` writes a sheet of examples, `--photographs FOLDER` images alone.
"""

import argparse
import concurrent.futures
import functools
import os
import sys
import time
import typing
from pathlib import Path

import cv2
import jax
import numpy as np
import tqdm

from jaxhand.config import UserError, cache_folder
from jaxhand.data.record import Record
from jaxhand.data.synthetic import raytrace, render, scene
from jaxhand.hand import draw
from jaxhand.hand.builtin import body, surface
from jaxhand.hand.camera import project
from jaxhand.hand.rotations import matrix_to_axis_angle
from jaxhand.io import array_file, console, files, output_files

FIRST_INDEX = {"train": 0, "val": 1 << 30, "test": 2 << 30}  # index of the first scene; no scene is in two splits
MAX_COUNT = 1 << 30
MAX_PREVIEW = 1000  # hands in a sheet
MESH_BATCH = 512
MARK = b"jaxhand synthetic, images"  # in the files of the command
_ALL_VALID = np.ones(21, np.float32)


@functools.cache
def _code_version() -> str:
    """Hash of the code that renders the images: a part of the cache's name, so that one of other code is not read."""
    return files.code_fingerprint(__file__, body.__file__, scene.__file__, raytrace.__file__, render.__file__)[:8]


class SyntheticSet:
    """Rendered hands as a source of records. The arrays are read-only and may be memory-mapped.

    Attributes:
        arrays: `image` (N, S, S, 3) uint8, `depth` (N, S, S) uint16 mm with a sensor's noise, `K` (N, 3, 3) and
            `keypoints_3d` (N, 21, 3) mm. The parameters of the built-in hand are `pose` (N, 24), `shape` (N, 10) and
            `turn` (N, 3, 3), the rotation from the hand frame to the camera frame. All arrays except `image` and
            `depth` are float32.
        mesh_labels: if `mesh` is True: `vertices` (N, V, 3) mm, `mano_pose` (N, 48) and `mano_shape` (N, 10) of the
            built-in hand; otherwise empty.
    """

    def __init__(self, arrays: dict[str, np.ndarray], name: str, crop_scale: float, mesh: bool = False):
        self.arrays, self.name = arrays, name
        self._image, self._depth, self._K, self._joints = (arrays[k] for k in ("image", "depth", "K", "keypoints_3d"))
        self.mesh_labels = _meshes(arrays) if mesh else {}
        image_size = self._image.shape[1]
        center, half = (image_size - 1) / 2, image_size / crop_scale / 2
        self._bbox = np.array([center - half, center - half, center + half, center + half], np.float32)

    def __len__(self) -> int:
        return len(self._image)

    def __getitem__(self, i: int) -> Record:
        """Return record i. Its `bbox` is a square; enlarged by `crop_scale`, it covers the complete image."""
        return Record(
            image=self._image[i],
            K=self._K[i],
            keypoints_3d=self._joints[i],
            joint_valid=_ALL_VALID,
            hand="right",
            depth=self._depth[i].astype(np.float32),
            bbox=self._bbox,
            name=f"{self.name}/{i}",
            mesh="builtin",
            **{key: values[i] for key, values in self.mesh_labels.items()},
        )


def load(
    split: str,
    count: int,
    *,
    size: int = 64,
    view: str = "front",
    seed: int = 0,
    cache: str | Path | None = None,
    crop_scale: float = 1.4,
    mesh: bool = False,
    progress: typing.Callable[[str], None] | None = None,
) -> SyntheticSet:
    """Return the first `count` hands of a split. They are rendered if they are not in the cache.

    Args:
        split: "train", "val" or "test"; they have no scene in common.
        count: number of hands, 1 to 2^30.
        size: side of the square images, px, 8 to 1024.
        view: "front" (palm or back of the hand, rotated by up to 35°) or "all" (all directions).
        seed: other seeds make other scenes.
        cache: folder for the rendered images; None or "": the user's cache folder.
        crop_scale: side of the image / side of the record's `bbox`.
        mesh: label the records with vertices and pose of the built-in hand.
        progress: function that is called with each message, one line; None: messages and a progress bar on stderr.

    Raises:
        UserError: an argument is not one of the values above.
    """
    _check(split, count, size, view)
    say = progress or (lambda line: print(line, file=sys.stderr, flush=True))
    name = f"synthetic-{view}-{split}"
    file = Path(cache or cache_folder()).expanduser() / f"{name}-{size}px-{count}-seed{seed}-{_code_version()}.hands"
    arrays = None
    try:
        arrays = read_cache(file, count, size)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, array_file.DamagedError) as error:
        say(f"cannot use cached hands {file}: {error}; rendering them again")
    if arrays is None:
        started = time.monotonic()
        arrays = render_range(seed, FIRST_INDEX[split], count, size=size, view=view, bar=progress is None)
        say(f"rendered {count} hands of {name} in {time.monotonic() - started:.0f} s")
        try:
            array_file.write(file, arrays)
        except OSError as error:
            say(f"cannot keep rendered hands in {file.parent}: {error.strerror or error}; they stay in memory")
    return SyntheticSet(arrays, name, crop_scale, mesh)


def read_cache(file: Path, count: int, size: int, **more: tuple) -> dict[str, np.ndarray]:
    """Read the arrays of `count` rendered hands of `size` px.

    Args:
        file: written by `array_file.write`.
        count, size: as for `load`.
        more: further arrays: name → shape of one hand.

    Raises:
        OSError, array_file.DamagedError: as `array_file.read`; the latter also for other arrays.
    """
    arrays = array_file.read(file)
    shapes = {"image": (size, size, 3), "depth": (size, size), "K": (3, 3), "keypoints_3d": (21, 3)}
    shapes |= {"pose": (24,), "shape": (10,), "turn": (3, 3)} | more
    kinds = {"image": np.uint8, "depth": np.uint16} | dict.fromkeys(more, np.uint8)
    for name, shape in shapes.items():
        found = arrays.get(name)
        if found is None or found.shape != (count, *shape) or found.dtype != kinds.get(name, np.float32):
            raise array_file.DamagedError(f"the array {name} is not that of {count} hands of {size} px")
    return arrays


def render_range(
    seed: int, first: int, count: int, *, size: int, view: str, exact: bool = False, bar: bool = False
) -> dict[str, np.ndarray]:
    """Render the scenes first, …, first + count - 1.

    Args:
        seed, size, view: as for `load`.
        first: index of the first scene.
        count: number of scenes.
        exact: return `exact_depth` and `mask` as well.
        bar: show a progress bar on stderr.

    Returns:
        The arrays of a `SyntheticSet`. With `exact` also `exact_depth` (N, S, S) float32 mm and `mask` (N, S, S) uint8:
        0 background, 1 hand and forearm, 2 held object.
    """
    arrays: dict[str, np.ndarray] = {}
    # Number of images per call. More images need fewer calls, but must fit in the processor's cache.
    chunk_size = 64 if size <= 80 else 16

    def fill(start: int) -> int:
        chunk = _render_chunk(seed, first + start + np.arange(chunk_size), size, view)
        done = min(chunk_size, count - start)
        for key, value in chunk.items():
            if exact or key not in ("exact_depth", "mask"):
                arrays.setdefault(key, np.empty((count, *value.shape[1:]), value.dtype))
                arrays[key][start : start + done] = value[:done]
        return done

    with tqdm.tqdm(total=count, desc=f"rendering {view} hands", unit="img", disable=None if bar else True) as progress:
        try:
            progress.update(fill(0))  # the first call compiles the program for all threads
        except MemoryError as error:
            raise UserError(f"{count:,} hands of {size} px do not fit into memory ({error}); render fewer") from None
        pool = concurrent.futures.ThreadPoolExecutor(_cores())
        try:
            pending = [pool.submit(fill, start) for start in range(chunk_size, count, chunk_size)]
            for future in concurrent.futures.as_completed(pending):
                progress.update(future.result())
        finally:
            pool.shutdown(cancel_futures=True)
    return arrays


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _render_chunk(seed: int, index: np.ndarray, size: int, view: str) -> dict[str, np.ndarray]:
    """Render scenes `index` (B,), always on the CPU in float32: images are equal for all machines and JAX settings."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]), jax.enable_x64(False):
        scenes = sample_scenes(seed, index, view)
        images = render.render(scenes, size)
        chunk = {
            "image": images.image,
            "depth": images.sensor_depth,
            "K": render.intrinsics(scenes.window, size),
            "keypoints_3d": scenes.joints,
            "pose": scenes.pose,
            "shape": scenes.shape,
            "turn": scenes.frames[:, 0],  # the wrist's axes are those of the hand frame
            "exact_depth": images.exact_depth,
            "mask": images.mask,
        }
        return jax.tree.map(np.asarray, chunk)


def _meshes(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `vertices` (N, V, 3) mm, `mano_pose` (N, 48) axis-angles and `mano_shape` (N, 10) of all hands."""
    found = {}
    for start in range(0, len(arrays["pose"]), MESH_BATCH):
        part = (arrays[key][start : start + MESH_BATCH] for key in ("pose", "shape", "turn", "keypoints_3d"))
        for key, values in zip(("vertices", "mano_pose"), _surfaces(*part)):
            found.setdefault(key, []).append(np.asarray(values))
    return {key: np.concatenate(values) for key, values in found.items()} | {"mano_shape": arrays["shape"]}


@jax.jit
def _surfaces(pose: jax.Array, shape: jax.Array, turn: jax.Array, joints: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return vertices (B, V, 3) mm and axis-angles (B, 48) of B hands."""
    frames = turn[:, None] @ jax.vmap(body.forward)(pose, shape).frames  # (B, 16, 3, 3)
    rotations = surface.rotations_of(frames)
    return surface.vertices_of(frames, joints, shape), matrix_to_axis_angle(rotations).reshape(-1, 48)


def sample_scenes(seed: int, index: np.ndarray, view: str) -> scene.Scene:
    """Generate the random scenes with the numbers `index` (B,), for a seed. All fields have the leading axis B."""
    return _scenes(_numbers(np.uint32(seed % 2**32), np.asarray(index).astype(np.uint32)), view)


# Two compiled programs: in a single one, XLA would fuse both and compute the random numbers again at each use.
_numbers = jax.jit(jax.vmap(body.random_numbers, in_axes=(None, 0)))
_scenes = jax.jit(jax.vmap(scene.sample_scene, in_axes=(0, None)), static_argnums=1)


def _check(split: str, count: int, size: int, view: str) -> None:
    if split not in FIRST_INDEX:
        raise UserError(f"the synthetic data set has the splits {', '.join(FIRST_INDEX)}, not {split!r}")
    if view not in scene.VIEWS:
        raise UserError(f"the synthetic data set has the views {', '.join(scene.VIEWS)}, not {view!r}")
    if not 1 <= count <= MAX_COUNT:
        raise UserError(f"the synthetic data set has 1 to 2^30 hands, not {count}")
    if not 8 <= size <= 1024:
        raise UserError(f"the synthetic data set has images of 8 to 1024 px, not {size}")


def _preview(args: argparse.Namespace) -> None:
    """Write a sheet that shows for each hand: the image, the image with the skeleton, and the depth image."""
    _check(args.split, args.count, args.size, args.view)
    if not (args.count <= MAX_PREVIEW and 1 <= args.columns <= MAX_PREVIEW):
        raise UserError(f"a sheet has 1 to {MAX_PREVIEW} hands and columns, not {args.count} and {args.columns}")
    output_files.check_own(args.preview, MARK)
    arrays = render_range(args.seed, FIRST_INDEX[args.split], args.count, size=args.size, view=args.view, bar=True)
    scale = max(1, 192 // args.size)
    cells = []
    for image, depth, joints, K in zip(*(arrays[key] for key in ("image", "depth", "keypoints_3d", "K"))):
        shade = np.clip((joints[:, 2].mean() + 250 - depth) / 400, 0, 1)  # 0.625 at the hand's mean depth
        colors = cv2.applyColorMap((shade * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
        colors = colors * (depth > 0)[..., None]
        skeleton = draw.draw_skeleton(image, project(joints, K), scale=scale)
        cells.append(np.concatenate([draw.upscale(image, scale), skeleton, draw.upscale(colors, scale)], axis=1))
    draw.write_png(args.preview, draw.grid(cells, columns=args.columns), MARK)
    print(f"{args.count} hands -> {args.preview}")


def _photographs(args: argparse.Namespace) -> None:
    """Write images alone, as JPEG files of a camera: hand_0.jpg, hand_1.jpg, …"""
    _check(args.split, args.count, args.size, args.view)
    paths = [args.photographs / f"hand_{number}.jpg" for number in range(args.count)]
    for path in paths:
        output_files.check_own(path, MARK)
    arrays = render_range(args.seed, FIRST_INDEX[args.split], args.count, size=args.size, view=args.view, bar=True)
    try:
        args.photographs.mkdir(parents=True, exist_ok=True)
        for path, image in zip(paths, arrays["image"]):
            encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            path.write_bytes(output_files.marked_jpeg(encoded.tobytes(), MARK))
    except OSError as error:
        raise UserError(f"cannot write to {args.photographs}: {error.strerror}") from error
    print(f"{args.count} images of {args.size} px -> {args.photographs}")


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(prog="jaxhand synthetic", description=(__doc__ or "").partition("\n")[0])
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument(
        "--preview", type=console.output_file(".png"), metavar="PNG", help="a sheet: image, skeleton, depth"
    )
    output.add_argument(
        "--photographs", type=console.output_path, metavar="FOLDER", help="the images alone, as JPEG files"
    )
    parser.add_argument("--view", default="front", help="front or all (%(default)s)")
    parser.add_argument("--split", default="train", help="train, val or test (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of an image, px (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other hands (%(default)s)")
    parser.add_argument("--count", type=int, default=40, help="how many hands (%(default)s)")
    parser.add_argument("--columns", type=int, default=4, help="hands in a row of the sheet (%(default)s)")
    try:
        args = parser.parse_args(argv)
        (_preview if args.preview else _photographs)(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
