"""Sources of records as training batches (endless, shuffled, sharded, resumable to the sample) and as test batches.

One Grain element is one whole batch: one element per record would cost more Python than reading a small crop does.
Every random choice is a function of (seed, step), and each process reads its own rows of the global batch, so the global
batch is the same for any number of processes.
"""

import functools
import math
import weakref

import cv2
import grain
import numpy as np

from jaxhand.config import Config, UserError
from jaxhand.data import mix
from jaxhand.data.augment import draw
from jaxhand.data.batch import layout
from jaxhand.data.crop import crop
from jaxhand.data.crop_rules import RULES
from jaxhand.data.mocap import MocapBatches
from jaxhand.data.record import read_encoded
from jaxhand.hand.skinned import SkinnedHand

ENDLESS = 2**40  # steps


def steps_per_epoch(source, config: Config) -> int:
    """The number of full batches in an epoch.

    Raises:
        UserError: there are fewer samples than one batch needs.
    """
    batch_size, asked = config.training.batch_size, config.training.epoch_samples
    samples = asked or len(source)
    if samples < batch_size:
        holds = f"training.epoch_samples is {asked}" if asked else f"the training set holds {samples} samples"
        raise UserError(f"training.batch_size is {batch_size}, but {holds}: lower it")
    return samples // batch_size


def train_iterator(
    source, config: Config, *, hand_model: SkinnedHand | None = None, process_index: int = 0, process_count: int = 1
):
    """Endless batches on the host, shuffled again every epoch; each sample comes at most once per epoch.

    `mix.order` draws the records of a `Mix`, and of any source if `training.epoch_samples` is set.

    Args:
        source: of records.
        config: `seed`, `data` and `training.batch_size` (over all processes) are used.
        hand_model: the hand whose mesh labels are part of the batches; None leaves them out.
        process_index, process_count: which rows of every global batch this process reads.

    Returns:
        An iterator of `batch.Batch` dicts with batch_size / process_count rows. `get_state()` returns a dict for JSON, the
        same on every process; after `set_state` the next batch is the one that would have followed.
    """
    batches = _TrainBatches(source, config, hand_model, process_index, process_count)
    if config.data.mocap:
        mocap = MocapBatches(config.data.mocap, batches.seed, config.training.batch_size, batches.rows)
        batches = _Joined(batches, mocap)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(_read_options(config)))


def eval_batches(
    source,
    config: Config,
    batch_size: int,
    *,
    hand_model: SkinnedHand | None = None,
    process_index: int = 0,
    process_count: int = 1,
):
    """Batches on the host in the source's order, as an iterable that can be iterated again.

    Every sample comes once over all processes, and all processes get the same number of batches: the last one is filled
    up to `batch_size` (over all processes) with copies of the last sample whose `valid` is 0. `hand_model` as for
    `train_iterator`.
    """
    batches = _EvalBatches(source, config, batch_size, hand_model, process_index, process_count)
    return grain.MapDataset.source(batches).to_iter_dataset(_read_options(config))


def _read_options(config: Config) -> grain.ReadOptions:
    cv2.setNumThreads(1)  # for the whole process: our threads use all cores already
    return grain.ReadOptions(num_threads=config.data.threads, prefetch_buffer_size=config.data.threads + 1)


class _TrainBatches:
    """Step → the rows of the global batch that this process reads."""

    def __init__(self, source, config: Config, hand_model, process_index: int, process_count: int):
        if config.training.epoch_samples and not isinstance(source, mix.Mix):
            source = mix.Mix({"": source}, {"": 1.0})
        self.source, self.config = source, config
        self.seed = config.seed % 2**64  # NumPy takes no negative seed
        self.rows = _rows(config.training.batch_size, process_index, process_count)
        self.steps = steps_per_epoch(source, config)
        self.crops = _Crops(source, config, hand_model)
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
        batch = self.crops(index, changes) | _bookkeeping(index, np.ones(len(index)))
        for key in ("depth", "has_depth", "depth_center"):
            batch[key][hidden] = 0
        return batch


class _Joined:
    """Step → the arrays of several sources of batches together; its length is that of the first."""

    def __init__(self, *sources):
        self.sources = sources

    def __len__(self) -> int:
        return len(self.sources[0])

    def __getitem__(self, step: int) -> dict:
        return {key: array for source in self.sources for key, array in source[step].items()}


class _EvalBatches:
    """Batch number → the rows of the global batch that this process reads."""

    def __init__(self, source, config: Config, batch_size: int, hand_model, process_index: int, process_count: int):
        self.source, self.config, self.batch_size = source, config, batch_size
        self.rows = _rows(batch_size, process_index, process_count)
        self.crops = _Crops(source, config, hand_model)

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.batch_size)

    def __getitem__(self, number: int) -> dict:
        last = len(self.source) - 1
        index = (number * self.batch_size + np.arange(self.batch_size))[self.rows]
        held = np.minimum(index, last)
        return self.crops(held, [{}] * len(held)) | _bookkeeping(held, index <= last)


def _rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise UserError(f"a batch of {batch_size} cannot be shared evenly by {process_count} processes")
    local = batch_size // process_count
    return slice(process_index * local, (process_index + 1) * local)


class _Crops:
    """Records of a source as one batch of crops, in the memory of earlier batches that are no longer in use.

    Fresh memory would cost as much time as decoding, since the system clears it page by page.
    """

    def __init__(self, source, config: Config, hand_model: SkinnedHand | None):
        self.source, self.size, self.crop_scale = source, config.data.image_size, config.data.crop_scale
        self.hand_model = hand_model
        self.rule = RULES[config.data.crop_rule]
        if hand_model is not None and not self.rule.mirror_left:
            raise UserError(
                f"data.crop_rule={config.data.crop_rule} leaves left hands as they are, and the mesh of model "
                f"{config.model.name!r} is that of a right hand: set data.crop_rule=square"
            )
        self.free = {}  # bytes → blocks of memory

    def __call__(self, index, changes: list[dict]) -> dict:
        """The crops of records `index`; `changes` are keyword arguments of `crop` for each."""
        batch = self._arrays(len(index))
        for row, (i, change) in enumerate(zip(index, changes)):
            out = {key: array[row, ...] for key, array in batch.items()}
            record = read_encoded(self.source, i)
            crop(record, self.size, self.crop_scale, rule=self.rule, **change, hand_model=self.hand_model, out=out)
        return batch

    def _arrays(self, count: int) -> dict:
        places, end = {}, 0
        for key, (shape, dtype) in layout(self.size, self.hand_model).items():
            places[key] = end, (count, *shape), dtype
            end += -(-math.prod((count, *shape)) * np.dtype(dtype).itemsize // 64) * 64
        free = self.free.setdefault(end, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = memoryview(np.empty(end, np.uint8))
        block = np.frombuffer(memory, np.uint8)  # every array that is a view of the memory keeps it alive
        weakref.finalize(block, free.append, memory).atexit = False
        return {key: np.ndarray(shape, dtype, block, begin) for key, (begin, shape, dtype) in places.items()}


def _bookkeeping(index, valid) -> dict:
    return {"index": np.asarray(index, np.int32), "valid": np.asarray(valid, np.float32)}
