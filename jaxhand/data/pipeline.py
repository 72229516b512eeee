"""Sources of records as endless training batches (shuffled, sharded, resumable to the sample) and as test batches.

One Grain element is one whole batch: per-record elements would cost more Python than reading a small crop does.
Every random choice is a function of (seed, step), and a process takes its rows of the global batch, so the global
batch is the same on however many processes.
"""

import functools
import math
import weakref
from pathlib import Path

import cv2
import grain
import numpy as np

from jaxhand import hand
from jaxhand.config import Config, UserError
from jaxhand.data import mix
from jaxhand.data.augment import draw
from jaxhand.data.crop import crop, layout
from jaxhand.data.crop_rules import RULES
from jaxhand.data.record import read_encoded
from jaxhand.io import pickles

ENDLESS = 2**40  # steps


def steps_per_epoch(source, config: Config) -> int:
    """Full batches in an epoch. Raises UserError where not even one can be filled."""
    batch_size, asked = config.training.batch_size, config.training.epoch_samples
    samples = asked or len(source)
    if samples < batch_size:
        holds = f"training.epoch_samples is {asked}" if asked else f"the training set holds {samples} samples"
        raise UserError(f"training.batch_size is {batch_size}, but {holds}: lower it")
    return samples // batch_size


def train_iterator(source, config: Config, *, process_index: int = 0, process_count: int = 1):
    """Endless host batches, shuffled anew every epoch, each sample at most once an epoch.

    A `Mix` is drawn as `mix.order` says, and so is any source where `training.epoch_samples` is set.

    Args:
        source: `__len__` and `__getitem__(i) -> Record`.
        config: seed, `data` and `training.batch_size` (over all processes) are used.
        process_index, process_count: which rows of every global batch are read.

    Returns:
        An iterator of dicts: what `crop` gives with a leading axis batch_size / process_count, and `valid`, `index`.
        `get_state()` is a JSON-able dict, the same on every process; `set_state` goes on with the very next batch.
    """
    batches = _TrainBatches(source, config, process_index, process_count)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(_ahead(config)))


def eval_batches(source, config: Config, batch_size: int, *, process_index: int = 0, process_count: int = 1):
    """Host batches in the source's order, as an iterable that may be walked again.

    Every sample comes once over all processes, which all see the same number of batches: `batch_size` (over all
    processes) is filled with copies of the last sample, `valid` 0.
    """
    batches = _EvalBatches(source, config, batch_size, process_index, process_count)
    return grain.MapDataset.source(batches).to_iter_dataset(_ahead(config))


def _ahead(config: Config) -> grain.ReadOptions:
    cv2.setNumThreads(1)  # for the whole process: a thread of ours has a core, and OpenCV's own would take turns on it
    return grain.ReadOptions(num_threads=config.data.threads, prefetch_buffer_size=config.data.threads + 1)


class _TrainBatches:
    """Step → this process's rows of the global batch."""

    def __init__(self, source, config: Config, process_index: int, process_count: int):
        if config.training.epoch_samples and not isinstance(source, mix.Mix):
            source = mix.Mix({"": source}, {"": 1.0})
        self.source, self.config = source, config
        self.seed = config.seed % 2**64  # NumPy takes no negative seed
        self.rows = _rows(config.training.batch_size, process_index, process_count)
        self.steps = steps_per_epoch(source, config)
        self.crops = _Crops(source, config)
        self.mocap = _mocap(config.data.mocap) if config.data.mocap else None
        self.order = functools.lru_cache(maxsize=2)(self._order)

    def __len__(self) -> int:
        return ENDLESS

    def _order(self, epoch: int) -> np.ndarray:
        if isinstance(self.source, mix.Mix):
            count = self.steps * self.config.training.batch_size
            return mix.order(self.source.sizes, self.source.weights, self.seed, epoch, count)
        return np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.source))

    def __getitem__(self, step: int) -> dict:
        data, batch_size = self.config.data, self.config.training.batch_size
        epoch, position = divmod(int(step), self.steps)
        index = self.order(epoch)[position * batch_size :][self.rows]
        rng = np.random.default_rng((self.seed, 1, step))
        changes = draw(rng, data.augment, batch_size)[self.rows]
        hidden = (rng.random(batch_size) < data.depth_dropout)[self.rows]
        batch = self.crops(index, changes) | _rest(index, np.ones(len(index)))
        for key in ("depth", "has_depth", "depth_center"):
            batch[key][hidden] = 0
        if self.mocap is not None:
            chosen = rng.integers(len(self.mocap["mocap_pose"]), size=2 * batch_size).reshape(2, -1)[:, self.rows]
            batch |= {key: values[chosen.reshape(-1)] for key, values in self.mocap.items()}
        return batch


def _mocap(path: str) -> dict[str, np.ndarray]:
    """Real hands without images: `mocap_pose` (N, 48) axis-angle and `mocap_shape` (N, 10)."""
    arrays = pickles.load_npz(Path(path).expanduser())
    names = {"mocap_pose": ("hand_pose", 48), "mocap_shape": ("betas", 10)}
    for name, size in names.values():
        found = np.shape(arrays.get(name))
        if len(found) != 2 or found[1] != size:
            raise UserError(f"data.mocap {path}: {name} must be (N, {size}), but is {found or 'not there'}")
    return {key: np.asarray(arrays[name], np.float32) for key, (name, _) in names.items()}


class _EvalBatches:
    """Batch number → this process's rows of the global batch."""

    def __init__(self, source, config: Config, batch_size: int, process_index: int, process_count: int):
        self.source, self.config, self.batch_size = source, config, batch_size
        self.rows = _rows(batch_size, process_index, process_count)
        self.crops = _Crops(source, config)

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.batch_size)

    def __getitem__(self, number: int) -> dict:
        last = len(self.source) - 1
        index = (number * self.batch_size + np.arange(self.batch_size))[self.rows]
        held = np.minimum(index, last)
        return self.crops(held, [{}] * len(held)) | _rest(held, index <= last)


def _rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise UserError(f"a batch of {batch_size} cannot be shared evenly by {process_count} processes")
    local = batch_size // process_count
    return slice(process_index * local, (process_index + 1) * local)


class _Crops:
    """Records of a source as one batch of crops, in memory of earlier batches that nobody holds any more.

    Fresh memory would cost as much as decoding: the system clears it page by page.
    """

    def __init__(self, source, config: Config):
        self.source, self.size, self.crop_scale = source, config.data.image_size, config.data.crop_scale
        self.hand = hand.load(config.hand) if config.has_mesh else None
        self.rule = RULES[config.data.crop_rule]
        self.free = {}  # bytes → blocks of memory

    def __call__(self, index, changes: list[dict]) -> dict:
        """The crops of records `index`; `changes` are keyword arguments of `crop` for each."""
        batch = self._arrays(len(index))
        for row, (i, change) in enumerate(zip(index, changes)):
            out = {key: array[row, ...] for key, array in batch.items()}
            record = read_encoded(self.source, i)
            crop(record, self.size, self.crop_scale, rule=self.rule, **change, hand=self.hand, out=out)
        return batch

    def _arrays(self, count: int) -> dict:
        places, end = {}, 0
        for key, (shape, dtype) in layout(self.size, self.hand).items():
            places[key] = end, (count, *shape), dtype
            end += -(-math.prod((count, *shape)) * np.dtype(dtype).itemsize // 64) * 64
        free = self.free.setdefault(end, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = memoryview(np.empty(end, np.uint8))
        block = np.frombuffer(memory, np.uint8)  # every array that looks into the memory holds it
        weakref.finalize(block, free.append, memory).atexit = False
        return {key: np.ndarray(shape, dtype, block, begin) for key, (begin, shape, dtype) in places.items()}


def _rest(index, valid) -> dict:
    return {"index": np.asarray(index, np.int32), "valid": np.asarray(valid, np.float32)}
