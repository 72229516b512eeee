"""Several data sets as one. For each sample, a data set is drawn by its weight, as in HaMeR's training mix."""

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.record import Record, Source, read_annotation, read_encoded


class Mix:
    """The concatenated records of several sources, and the weights with which `order` draws from the sources.

    Args:
        sources: name → source. The order of the names does not matter.
        weights: name → positive weight. Only the ratios of the weights matter.

    Raises:
        UserError: a source is empty.
    """

    def __init__(self, sources: dict[str, Source], weights: dict[str, float]):
        self.names = sorted(sources)
        self.sources = [sources[name] for name in self.names]
        self.sizes = np.array([len(source) for source in self.sources])
        if not self.sizes.all():
            raise UserError(f"{self.names[self.sizes.argmin()]}: no records; leave this data set out of the mix")
        self.weights = np.array([weights[name] for name in self.names]) / sum(weights.values())
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Record:
        source, i = self._find(i)
        return source[i]

    def read_encoded(self, i: int) -> Record:
        """Return record i; its image is an `EncodedImage` if the source supports that."""
        return read_encoded(*self._find(i))

    def read_annotation(self, i: int) -> Record:
        """Return record i without its image."""
        return read_annotation(*self._find(i))

    def _find(self, i: int) -> tuple[Source, int]:
        i = range(len(self))[i]
        k = int(np.searchsorted(self._ends, i, side="right"))
        return self.sources[k], int(i - self._ends[k] + self.sizes[k])


def order(sizes: np.ndarray, weights: np.ndarray, seed: int, epoch: int, count: int) -> np.ndarray:
    """Draw the records of an epoch. The data set of each sample is drawn by weight.

    Within a data set, no record is drawn twice before all were drawn once; then the data set is shuffled again. The
    next epoch continues in each data set where the previous epoch stopped. The result depends only on the arguments.

    Args:
        sizes: (S,) number of records in each data set.
        weights: (S,) weights of the data sets; their sum is 1.
        seed: seed of the random numbers, not negative.
        epoch: number of the epoch, from 0; all earlier epochs must have had the same `count`.
        count: number of records per epoch.

    Returns:
        (count,) indices into the concatenated data sets.
    """
    draws = (np.random.default_rng((seed, 2, e)).multinomial(count, weights) for e in range(epoch + 1))
    counts = np.array(list(draws))  # (epoch + 1, S)
    done, firsts = counts[:-1].sum(0), np.cumsum(sizes) - sizes
    chosen = np.random.default_rng((seed, 3, epoch)).permutation(np.repeat(np.arange(len(sizes)), counts[-1]))
    indices = np.empty(count, np.int64)
    for k, (size, begin, drawn) in enumerate(zip(sizes, done, counts[-1])):
        passes = range(begin // size, -(-(begin + drawn) // size))
        shuffled = [np.random.default_rng((seed, 4, k, p)).permutation(size) for p in passes]
        start = begin % size
        indices[chosen == k] = firsts[k] + np.concatenate([np.zeros(0, np.int64), *shuffled])[start : start + drawn]
    return indices
