"""Several data sets as one: each sample of an epoch comes from a set drawn by weight, as in HaMeR's training mix."""

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.record import Record, Source, read_annotation, read_encoded


class Mix:
    """The records of several sources, concatenated, and the weights with which `order` draws from them.

    Args:
        sources: name → source.
        weights: name → positive weight; only their ratios matter. The order of the names does not.

    Raises:
        UserError: a source is empty.
    """

    def __init__(self, sources: dict[str, Source], weights: dict[str, float]):
        self.names = sorted(sources)
        self.sources = [sources[name] for name in self.names]
        self.sizes = np.array([len(source) for source in self.sources])
        if not self.sizes.all():
            raise UserError(f"{self.names[self.sizes.argmin()]} holds no records: leave it out of the mix")
        self.weights = np.array([weights[name] for name in self.names]) / sum(weights.values())
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Record:
        source, i = self._find(i)
        return source[i]

    def read_encoded(self, i: int) -> Record:
        """Record i whose image is an `EncodedImage`, where its source supports that."""
        return read_encoded(*self._find(i))

    def read_annotation(self, i: int) -> Record:
        """Record i without its image."""
        return read_annotation(*self._find(i))

    def _find(self, i: int) -> tuple[Source, int]:
        i = range(len(self))[i]
        k = int(np.searchsorted(self._ends, i, side="right"))
        return self.sources[k], int(i - self._ends[k] + self.sizes[k])


def order(sizes: np.ndarray, weights: np.ndarray, seed: int, epoch: int, count: int) -> np.ndarray:
    """Draw the records of an epoch. The weights decide the set; within a set no record repeats before all were drawn.

    A set that is used up is shuffled again. The next epoch continues in each set where the last one stopped. The result
    depends on the arguments alone.

    Args:
        sizes: (S,) number of records in each set.
        weights: (S,) that add up to 1.
        seed: not negative.
        epoch: from 0; all earlier epochs must have had the same `count`.
        count: number of records that an epoch draws.

    Returns:
        (count,) indices into the concatenated sets.
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
