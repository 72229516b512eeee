"""A video of the built-in hand world with known joints: one hand that moves, or two that cross.

`jaxhand synthetic --clip clip.mp4` writes the video and, next to it, clip.jsonl with one line per frame.
"""

import argparse
import json
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from jaxhand.config import UserError, limits
from jaxhand.data.synthetic import render
from jaxhand.data.synthetic.scene import Scene, sample_scene
from jaxhand.hand.builtin import body
from jaxhand.hand.camera import project
from jaxhand.io import console, output_files
from jaxhand.io.video_writer import open_writer

MARK = b'{"frame": 0, "time": 0.0, "K": [['  # at the start of the lines next to a clip
CHUNK = 8  # frames that are rendered together
KEY_SECONDS, CROSS_SECONDS = 1.2, 4.0  # time from one pose to the next; time in which two hands cross and come back
VIEW = 0.95  # side of the image at a distance of 1
WALL_MM, WALL_GAP_MM = 900.0, 300.0
NEAR_MM, FAR_MM = 420.0, 520.0  # distances of the two hands
SWING_MM = (95.0, 28.0, 25.0)  # of a hand's path, along x, y, z
TURN = 0.22  # radians, of the rotations around all axes
FOREARM_LENGTH = 2.4  # a longer forearm than the body's: it leaves the image


class ClipFrame(typing.NamedTuple):
    """One frame with H hands; hand 0 is a right one, hand 1 a left one."""

    image: np.ndarray  # (S, S, 3) uint8
    keypoints_3d: np.ndarray  # (H, 21, 3) mm
    keypoints_2d: np.ndarray  # (H, 21, 2) px
    K: np.ndarray  # (3, 3) px


def frames(seed: int, count: int, *, size: int, hands: int, fps: float = 30.0) -> Iterator[ClipFrame]:
    """Render the frames of a clip, a few at a time.

    Args:
        seed: another seed makes other hands.
        count: number of frames.
        size: side of the square images, px.
        hands: 1, or 2 that cross every `CROSS_SECONDS` / 2.
        fps: frames per second.
    """
    keys = np.arange(int(count / fps / KEY_SECONDS) + 2)
    bases = [_scenes(np.uint32(seed % 2**32) ^ np.uint32(hand), keys.astype(np.uint32)) for hand in range(hands)]
    for start in range(0, count, CHUNK):
        seconds = (start + np.arange(CHUNK)) / fps
        scenes = [_moving(base, hand, seconds) for hand, base in enumerate(bases)]
        images = [render.render(scene, size) for scene in scenes]
        K = render.intrinsics(scenes[0].window, size)[0].astype(np.float64)
        joints = np.stack([np.asarray(scene.joints, np.float64) for scene in scenes], 1)  # (B, H, 21, 3)
        pixels = project(joints, K)
        composed = _composed(images)
        for row in range(min(CHUNK, count - start)):
            yield ClipFrame(composed[row], joints[row], pixels[row], K)


_scenes = jax.jit(jax.vmap(lambda s, i: sample_scene(body.random_numbers(s, i), "front"), in_axes=(None, 0)))


def _moving(keys: Scene, hand: int, seconds: np.ndarray) -> Scene:
    """The scenes of one hand at several times; its poses are blended from those of the scenes `keys`."""
    at = seconds / KEY_SECONDS
    part = at % 1
    part = jnp.asarray(part * part * (3 - 2 * part), jnp.float32)[:, None]  # smooth at the keys
    before = np.minimum(at.astype(int), len(keys.pose) - 2)
    poses = keys.pose[before] * (1 - part) + keys.pose[before + 1] * part
    phase = 2 * np.pi * seconds / CROSS_SECONDS
    sides = -1 if hand else 1  # the hands start on both sides of the image, and cross
    path = np.stack([sides * np.cos(phase), np.sin(1.7 * phase + hand), np.sin(1.3 * phase + 2 * hand)], -1) * SWING_MM
    path[:, 2] += FAR_MM if hand else NEAR_MM
    angles = TURN * np.stack([np.sin(0.9 * phase + 1.5 * hand), np.sin(1.1 * phase + 1), np.sin(0.7 * phase)], -1)
    base = jax.tree.map(lambda field: field[0], keys)
    return _posed(base, poses, jnp.asarray(path, jnp.float32), jnp.asarray(angles, jnp.float32), bool(hand))


def _pose(base: Scene, pose: jax.Array, center: jax.Array, angles: jax.Array, mirror: bool) -> Scene:
    """The scene `base` with its hand in another pose, rotated by `angles` (3,), its mean joint at `center` (3,) mm."""
    hand = body.forward(pose, base.shape)
    cones = body.body_cones(hand)
    forearm = body.IS_FOREARM[:, None]
    far_end = cones.start + (cones.end - cones.start) * FOREARM_LENGTH
    turn = body.euler(jnp.sin(angles)[None], jnp.cos(angles)[None])[0] @ base.frames[0]  # hand → camera
    turn = turn * np.array([-1 if mirror else 1, 1, 1], np.float32)
    joints = hand.joints @ turn.T
    move = center - joints.mean(0)
    place = lambda points: points @ turn.T + move  # noqa: E731
    cones = cones._replace(start=place(cones.start), end=place(jnp.where(forearm, far_end, cones.end)))
    return base._replace(
        pose=pose, joints=joints + move, frames=turn @ hand.frames, cones=cones,
        object_kind=jnp.zeros_like(base.object_kind),
        window=jnp.array([0.0, 0.0, VIEW]), wall=jnp.array([0.0, 0.0, 1.0, WALL_MM, WALL_GAP_MM]),
    )  # fmt: skip


_posed = jax.jit(jax.vmap(_pose, in_axes=(None, 0, 0, 0, None)), static_argnums=4)


def _composed(images: list[render.Images]) -> np.ndarray:
    """The images (B, S, S, 3) of one scene with the hands of all; where hands overlap, the nearest is visible."""
    composed, depth = (np.array(array) for array in (images[0].image, images[0].exact_depth))
    for other in images[1:]:
        nearer = (np.asarray(other.mask) == 1) & (np.asarray(other.exact_depth) < depth)
        composed[nearer], depth[nearer] = np.asarray(other.image)[nearer], np.asarray(other.exact_depth)[nearer]
    return composed


def write(path: Path, rendered: Iterator[ClipFrame], fps: float) -> int:
    """Write a clip, and a line of JSON for each frame next to it; returns the number of frames.

    Raises:
        UserError: a file cannot be written.
    """
    writer, count = None, 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".jsonl"), "w", encoding="utf-8") as lines:
            for count, frame in enumerate(rendered, start=1):
                if writer is None:
                    height, width = frame.image.shape[:2]
                    writer = open_writer(path, (width, height), fps)
                seconds = (count - 1) / fps
                writer.add(frame.image, seconds)
                hands = [
                    {
                        "track": number,
                        "hand": "left" if number == 2 else "right",
                        "joints_2d": np.round(pixels, 2).tolist(),
                        "joints_3d": np.round(joints, 2).tolist(),
                    }
                    for number, (pixels, joints) in enumerate(zip(frame.keypoints_2d, frame.keypoints_3d), start=1)
                ]
                entry = {"frame": count - 1, "time": round(seconds, 6), "K": frame.K.tolist(), "hands": hands}
                lines.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if writer is not None:
            writer.close()
    if writer is not None and writer.note:
        print(f"{path}: {writer.note}")
    return count


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(prog="jaxhand synthetic", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clip", type=console.output_path, metavar="MP4", required=True, help="the video to write")
    parser.add_argument(
        "--hands", type=int, choices=(1, 2), default=2, help="one hand, or two that cross (%(default)s)"
    )
    parser.add_argument("--size", type=int, default=384, help="side of the square video, px (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other hands (%(default)s)")
    parser.add_argument("--count", type=int, default=240, help="number of frames (%(default)s)")
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second (%(default)s)")
    try:
        args = parser.parse_args(argv)
        if not (64 <= args.size <= 1024 and args.size % 2 == 0):
            raise UserError(f"--size must be an even number from 64 to 1024, got {args.size}")
        if not (1 <= args.count <= limits.FRAMES and 1 <= args.fps <= 240):
            raise UserError(
                f"--count must be 1 to {limits.FRAMES:,} and --fps 1 to 240, got {args.count} and {args.fps}"
            )
        if args.clip.suffix.lower() != ".mp4":
            raise UserError(f"--clip must end in .mp4, got {args.clip}")
        output_files.check_own(args.clip.with_suffix(".jsonl"), MARK, args.clip)
        rendered = frames(args.seed, args.count, size=args.size, hands=args.hands, fps=args.fps)
        bar = tqdm.tqdm(rendered, total=args.count, desc="rendering a clip", unit="frame", disable=None)
        count = write(args.clip, iter(bar), args.fps)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} frames of {args.size} px -> {args.clip}, joints -> {args.clip.with_suffix('.jsonl')}")
    return 0
