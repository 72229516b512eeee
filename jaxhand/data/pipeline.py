"""Batches of records, for training (endless, shuffled, sharded, resumable at any batch) and for evaluation.

One Grain element is a complete batch, because Grain's overhead per element is larger than the time to read a small
crop. Every random choice is a function of (seed, step), and each process reads its own rows of the global batch. So
the global batch is the same for any number of processes.
"""

import functools
import math
import typing
from collections.abc import Callable, Iterable, Sequence

import cv2
import grain
import numpy as np
from grain.sources import RandomAccessDataSource

from jaxhand.config import Config, UserError
from jaxhand.data import memory, mix
from jaxhand.data.augment import draw
from jaxhand.data.batch import Batch, layout
from jaxhand.data.crop import crop
from jaxhand.data.crop_rules import RULES
from jaxhand.data.mocap import MocapBatches
from jaxhand.data.record import Source, read_encoded
from jaxhand.data.workers import POSSIBLE, InProcesses
from jaxhand.hand.skinned import SkinnedHand

ENDLESS = 2**40  # number of training steps that is never reached
MANY_TIMES = 3  # an epoch that uses each hand this often is explained to the user


def steps_per_epoch(source: Source, config: Config) -> int:
    """Return the number of full batches in an epoch.

    Raises:
        UserError: an epoch has fewer samples than one batch.
    """
    batch_size, asked = config.training.batch_size, config.training.epoch_samples
    samples = asked or len(source)
    if samples < batch_size:
        holds = f"training.epoch_samples is {asked}" if asked else f"the training set has {samples} samples"
        raise UserError(f"training.batch_size is {batch_size}, but {holds}; lower training.batch_size")
    return samples // batch_size


def repetition_notes(source: Source, config: Config) -> list[str]:
    """Return one sentence if `training.epoch_samples` repeats the records of a source many times in every epoch."""
    times = config.training.epoch_samples / len(source)
    if times < MANY_TIMES:
        return []
    asked = f"training.epoch_samples is {config.training.epoch_samples:,}, but there are {len(source):,} training hands"
    return [f"{asked}: an epoch has {steps_per_epoch(source, config):,} steps and uses each hand {times:,.0f} times"]


def train_iterator(
    source: Source,
    config: Config,
    *,
    hand_model: SkinnedHand | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Return endless training batches on the host, shuffled in every epoch. A sample occurs at most once per epoch.

    Exception: for a `Mix`, and for any source if `training.epoch_samples` is set, `mix.order` draws the records.

    Args:
        source: the source of records.
        config: `seed`, `data`, `training.epoch_samples` and `training.batch_size` (over all processes) are used.
        hand_model: the hand model whose mesh labels are part of the batches; None: no mesh labels.
        process_index, process_count: select the rows of every global batch that this process reads.

    Returns:
        An iterator of `batch.Batch` dicts with batch_size / process_count rows. `get_state()` returns a dict for JSON,
        which is equal on all processes. After `set_state` with this dict, the iterator continues with the same batch.
    """
    make = functools.partial(_train_batches, source, config, hand_model, process_index, process_count)
    return iter(_read_ahead(make, config))


def eval_batches(
    source: Source,
    config: Config,
    batch_size: int,
    *,
    hand_model: SkinnedHand | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterable[Batch]:
    """Return batches on the host, in the order of the source, as an iterable that can be iterated several times.

    Every sample occurs once over all processes, and all processes get the same number of batches. The last batch is
    padded to `batch_size` (over all processes) with copies of the last sample; their `valid` is 0. `hand_model` is used
    as in `train_iterator`.
    """
    make = functools.partial(_EvalBatches, source, config, batch_size, hand_model, process_index, process_count)
    return _read_ahead(make, config)


def _read_ahead(make: Callable[[], RandomAccessDataSource[Batch]], config: Config) -> grain.IterDataset:
    """The batches of `make()` in their order, read before they are needed in threads or in other processes."""
    cv2.setNumThreads(1)  # in this process, because our threads already use all cores
    workers = config.data.workers if POSSIBLE else 0
    if workers:  # one thread more, so that the next batch is known when a process is free
        batches, threads = InProcesses(make, workers), workers + 1
    else:
        batches, threads = make(), config.data.threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    return grain.MapDataset.source(batches).to_iter_dataset(options)


def _train_batches(
    source: Source, config: Config, hand_model: SkinnedHand | None, process_index: int, process_count: int
) -> "_TrainBatches | _Joined":
    batches = _TrainBatches(source, config, hand_model, process_index, process_count)
    if not config.data.mocap:
        return batches
    mocap = MocapBatches(config.data.mocap, batches.seed, config.training.batch_size, batches.rows)
    return _Joined(batches, mocap)


class _TrainBatches:
    """Maps a step to this process's rows of the global batch, for training."""

    def __init__(
        self, source: Source, config: Config, hand_model: SkinnedHand | None, process_index: int, process_count: int
    ):
        if config.training.epoch_samples and not isinstance(source, mix.Mix):
            source = mix.Mix({"": source}, {"": 1.0})
        self.source, self.config = source, config
        self.seed = config.seed % 2**64  # NumPy does not accept negative seeds
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

    def __getitem__(self, index: int) -> Batch:
        data, batch_size = self.config.data, self.config.training.batch_size
        epoch, position = divmod(int(index), self.steps)
        chosen = self.order(epoch)[position * batch_size :][self.rows]
        rng = np.random.default_rng((self.seed, 1, index))
        changes = draw(rng, data.augment, batch_size)[self.rows]
        hidden = (rng.random(batch_size) < data.depth_dropout)[self.rows]
        batch = self.crops(chosen, changes) | _bookkeeping(chosen, np.ones(len(chosen)))
        for key in ("depth", "has_depth", "depth_center"):
            batch[key][hidden] = 0
        return typing.cast(Batch, batch)


class _Joined:
    """Maps a step to one dict with the arrays of several batch sources. The length is that of the first source."""

    def __init__(self, *sources):
        self.sources = sources

    def __len__(self) -> int:
        return len(self.sources[0])

    def __getitem__(self, index: int) -> Batch:
        arrays = {key: array for source in self.sources for key, array in source[index].items()}
        return typing.cast(Batch, arrays)


class _EvalBatches:
    """Maps a batch number to this process's rows of the global batch, for evaluation."""

    def __init__(
        self,
        source: Source,
        config: Config,
        batch_size: int,
        hand_model: SkinnedHand | None,
        process_index: int,
        process_count: int,
    ):
        self.source, self.config, self.batch_size = source, config, batch_size
        self.rows = _rows(batch_size, process_index, process_count)
        self.crops = _Crops(source, config, hand_model)

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        last = len(self.source) - 1
        numbers = (index * self.batch_size + np.arange(self.batch_size))[self.rows]
        held = np.minimum(numbers, last)
        return typing.cast(Batch, self.crops(held, [{}] * len(held)) | _bookkeeping(held, numbers <= last))


def _rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise UserError(f"a batch of {batch_size} cannot be divided by {process_count} processes; change its size")
    local = batch_size // process_count
    return slice(process_index * local, (process_index + 1) * local)


class _Crops:
    """Crops records of a source into one batch, and reuses the memory of batches that are no longer in use."""

    def __init__(self, source: Source, config: Config, hand_model: SkinnedHand | None):
        self.source, self.size, self.crop_scale = source, config.data.image_size, config.data.crop_scale
        self.hand_model = hand_model
        self.rule = RULES[config.data.crop_rule]
        if hand_model is not None and not self.rule.mirror_left:
            raise UserError(
                f"data.crop_rule={config.data.crop_rule} leaves left hands as they are, and the mesh of model "
                f"{config.model.name!r} is that of a right hand: set data.crop_rule=square"
            )
        if config.data.augment.mirror and self.rule.mirror_left:
            raise UserError(
                f"data.augment.mirror: with data.crop_rule={config.data.crop_rule} all hands of a training are right "
                "hands; set it to 0, or data.crop_rule=mediapipe"
            )
        self.free = {}  # size in bytes → free blocks of memory

    def __call__(self, index: np.ndarray, changes: Sequence[dict]) -> dict[str, np.ndarray]:
        """Return the crops of the records `index`. `changes` has one dict of keyword arguments of `crop` per record."""
        batch = self._arrays(len(index))
        for row, (i, change) in enumerate(zip(index, changes)):
            out = {key: array[row, ...] for key, array in batch.items()}
            record = read_encoded(self.source, i)
            crop(record, self.size, self.crop_scale, rule=self.rule, **change, hand_model=self.hand_model, out=out)
        return batch

    def _arrays(self, count: int) -> dict[str, np.ndarray]:
        shapes = layout(self.size, self.hand_model)
        places, size = memory.places({key: ((count, *shape), dtype) for key, (shape, dtype) in shapes.items()})
        free = self.free.setdefault(size, [])
        try:
            block = free.pop()
        except IndexError:
            block = np.empty(size, np.uint8).data
        return memory.arrays(block, places, functools.partial(free.append, block))


def _bookkeeping(index: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    return {"index": np.asarray(index, np.int32), "valid": np.asarray(valid, np.float32)}
