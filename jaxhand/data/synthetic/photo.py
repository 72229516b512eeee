"""The photograph-like synthetic set: hands as cameras take them, as a teacher for networks that read photographs.

`synthetic-photo` as a data set. Each image is a pure function of (seed, index) and of the parts that are switched on.
"""

import dataclasses
import functools
import hashlib
import sys
import time
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError, cache_folder
from jaxhand.data.record import Record
from jaxhand.data.synthetic import backgrounds, dataset, photo_render
from jaxhand.data.synthetic.photo_scene import PARTS
from jaxhand.hand.camera import project
from jaxhand.io import array_file, files

MARGIN = 0.12  # of the box around the joints, as a fraction of its longer side: the flesh around them
_MIRROR_X, _MIRROR_ROTATION = np.array([[-1, 1, 1], [1, -1, -1]], np.float32)  # of points, of axis-angles


@functools.cache
def _code_version() -> str:
    """Hash of the code that renders the images, as in `dataset`."""
    return files.code_fingerprint(__file__, *photo_render.SOURCES)[:8]


class PhotoSet(dataset.SyntheticSet):
    """Photograph-like renders as a source of records. Half of the hands are left hands.

    Attributes:
        arrays: as of `SyntheticSet`, and `left` (N,) uint8, 1 for a left hand. Pose, shape and turn are those of the
            right hand that is mirrored then.
    """

    def __init__(self, arrays: dict[str, np.ndarray], name: str, mesh: bool = False):
        super().__init__(arrays, name, crop_scale=1.0)
        self._left = arrays["left"] > 0
        if mesh:
            mirror = np.where(self._left[:, None, None], _MIRROR_X, np.float32(1))
            right_hands = arrays | {"keypoints_3d": arrays["keypoints_3d"] * mirror}
            self.mesh_labels = dataset.SyntheticSet(right_hands, name, 1.0, mesh=True).mesh_labels

    def __getitem__(self, i: int) -> Record:
        """Return record i. Its `bbox` is that of the joints, enlarged by `MARGIN`."""
        record = super().__getitem__(i)
        uv = project(record.keypoints_3d, record.K)
        low, high = uv.min(0), uv.max(0)
        margin = MARGIN * (high - low).max()
        record = dataclasses.replace(record, bbox=np.concatenate([low - margin, high + margin]).astype(np.float32))
        if not self._left[i]:
            return record
        mirrored: dict[str, typing.Any] = {"hand": "left"}
        if record.vertices is not None and record.mano_pose is not None:
            mirrored["vertices"] = record.vertices * _MIRROR_X
            mirrored["mano_pose"] = (record.mano_pose.reshape(16, 3) * _MIRROR_ROTATION).reshape(48)
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
    parts = parts_without(split, count, size, without)
    say = progress or (lambda line: print(line, file=sys.stderr, flush=True))
    name = f"synthetic-photo-{split}"
    variant = "".join(f"-no_{part}" for part in PARTS if part not in parts)
    if background_folder:
        listed = "\n".join(f"{file} {file.stat().st_size}" for file in backgrounds.photographs_of(background_folder))
        variant += f"-backgrounds{hashlib.sha256(listed.encode()).hexdigest()[:8]}"
    folder = Path(cache or cache_folder()).expanduser()
    file = folder / f"{name}-{size}px-{count}-seed{seed}{variant}-{_code_version()}.hands"
    try:
        return PhotoSet(dataset.read_cache(file, count, size, left=()), name, mesh)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, array_file.DamagedError) as error:
        say(f"cannot use cached hands {file}: {error}; rendering them again")
    started = time.monotonic()
    first = dataset.FIRST_INDEX[split]
    arrays = photo_render.render_range(
        seed, first, count, size=size, parts=parts, folder=background_folder, bar=progress is None
    )
    say(f"rendered {count} hands of {name} in {time.monotonic() - started:.0f} s")
    try:
        array_file.write(file, arrays)
    except OSError as error:
        say(f"cannot keep rendered hands in {file.parent}: {error.strerror or error}; they stay in memory")
    return PhotoSet(arrays, name, mesh)


def parts_without(split: str, count: int, size: int, without: typing.Sequence[str]) -> frozenset[str]:
    """Check the arguments of `load`, and return the parts that are switched on.

    Raises:
        UserError: an argument is not one of the values that `load` lists.
    """
    if split not in dataset.FIRST_INDEX:
        raise UserError(f"the synthetic data set has the splits {', '.join(dataset.FIRST_INDEX)}, not {split!r}")
    if not 1 <= count <= dataset.MAX_COUNT:
        raise UserError(f"the synthetic data set has 1 to 2^30 hands, not {count}")
    if not 32 <= size <= 1024:
        raise UserError(f"the data set synthetic-photo has images of 32 to 1024 px, not {size}")
    if unknown := [part for part in without if part not in PARTS]:
        raise UserError(f"the data set synthetic-photo has the parts {', '.join(PARTS)}, not {unknown[0]!r}")
    return frozenset(PARTS) - set(without)
