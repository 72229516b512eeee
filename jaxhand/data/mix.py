"""Several sets as one: every sample of an epoch comes from a set drawn by weight, as HaMeR's training mix does."""

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.record import Record, read_annotation, read_encoded


class Mix:
    """The records of several sources one after the other, and how often `order` draws from each.

    Args:
        sources: name → source.
        weights: name → positive weight; only their ratios matter. The order of the names does not.

    Raises:
        UserError: a source is empty.
    """

    def __init__(self, sources: dict, weights: dict[str, float]):
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
        """Record i whose image is an `EncodedImage`, where its source gives such."""
        return read_encoded(*self._find(i))

    def read_annotation(self, i: int) -> Record:
        """Record i without its image."""
        return read_annotation(*self._find(i))

    def _find(self, i: int):
        i = range(len(self))[i]
        k = int(np.searchsorted(self._ends, i, side="right"))
        return self.sources[k], int(i - self._ends[k] + self.sizes[k])


def order(sizes, weights, seed: int, epoch: int, count: int) -> np.ndarray:
    """Which records an epoch draws: the set of each by weight, and of a set every record before any again.

    A set that is used up is shuffled anew; where an epoch leaves it, the next goes on. It depends on nothing else.

    Args:
        sizes: (S,) records of every set.
        weights: (S,) that add up to 1.
        seed: not negative.
        epoch: from 0; all earlier ones have had the same `count`.
        count: records that an epoch draws.

    Returns:
        (count,) indices into the sets one after the other.
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
