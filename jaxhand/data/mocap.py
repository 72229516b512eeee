"""Poses and shapes of real hands from motion capture, without images, for HaMeR's discriminator."""

from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.io import numpy_files

PER_ROW = 2  # real hands per row of a batch, as in HaMeR's training
_STREAM = 5  # part of the seed, so that the random numbers differ from those of `pipeline` and `mix`
_FIELDS = {"mocap_pose": ("hand_pose", 48), "mocap_shape": ("betas", 10)}  # key in a batch → name in the file, length
SHAPES = {key: ((PER_ROW, length), np.float32) for key, (_, length) in _FIELDS.items()}  # of one row of a batch


class MocapBatches:
    """Maps a step to `mocap_pose` (b, 2, 48) axis-angle and `mocap_shape` (b, 2, 10), for the rows of this process.

    Args:
        path: an .npz file with `hand_pose` (N, 48) and `betas` (N, 10), such as HaMeR's freihand_mocap.npz.
        seed: seed of the random numbers, not negative. The drawn hands depend only on seed and step.
        batch_size: number of rows of a global batch.
        rows: the rows of the global batch that this process reads.

    Raises:
        UserError: the file is missing, damaged, or its arrays have other shapes.
    """

    def __init__(self, path: str | Path, seed: int, batch_size: int, rows: slice):
        arrays = numpy_files.read_npz(Path(path).expanduser(), objects=True)
        for name, size in _FIELDS.values():
            found = np.shape(arrays[name]) if name in arrays else ()
            if len(found) != 2 or found[1] != size or not found[0]:
                raise UserError(f"data.mocap {path}: {name} must be (N, {size}), but is {found or 'missing'}")
        self._arrays = {key: np.asarray(arrays[name], np.float32) for key, (name, _) in _FIELDS.items()}
        self._seed, self._batch_size, self._rows = seed, batch_size, rows

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self._seed, _STREAM, step))
        chosen = rng.integers(len(self._arrays["mocap_pose"]), size=(self._batch_size, PER_ROW))[self._rows]
        return {key: values[chosen] for key, values in self._arrays.items()}
