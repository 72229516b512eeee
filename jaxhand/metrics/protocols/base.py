"""The interface of a benchmark's protocol, and functions to score a set piece by piece."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from jaxhand.config import UserError


@dataclass(frozen=True)
class Scores:
    """Scores of a set under one protocol; values that are not finite are not hidden."""

    values: dict[str, float]  # in the official code's names and units
    samples: dict[str, np.ndarray]  # (N,) each; NaN for a sample that the protocol leaves out
    units: dict[str, str]  # of the names above, such as "cm"; a name without one is a share of 1
    joints: dict[str, np.ndarray] = field(default_factory=dict)  # (J,) mm in the official order; NaN if never measured
    curves: dict[str, np.ndarray] = field(default_factory=dict)  # (2, T): thresholds in mm, share of distances <=


@dataclass(frozen=True)
class Protocol:
    """How a benchmark's official code scores predictions.

    Shapes are per sample; each size is an int, a choice of ints, or None for any number.
    """

    name: str
    measure: Callable[..., Scores]  # (pred, gt, **options) on arrays already checked
    pred: dict[str, tuple]  # arrays needed, by name
    gt: dict[str, tuple]
    source: str  # the official code
    unit_mm: float = 1.0  # of its 3D points, in mm
    joint_order: str = "freihand"  # key of `jaxhand.hand.skeleton.JOINT_ORDERS`
    joints: int = 21  # 42 are a right hand and a left one, each in that order
    pred_optional: dict[str, tuple] = field(default_factory=dict)
    gt_optional: dict[str, tuple] = field(default_factory=dict)

    @property
    def options(self) -> dict:
        """Names and defaults of the keyword options of `score`."""
        parameters = inspect.signature(self.measure).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def score(self, pred: dict, gt: dict, **options) -> Scores:
        """Score a complete set.

        Args:
            pred: arrays (N, …) by the names of `self.pred`, in the official code's units, frame and joint order.
            gt: the same, by the names of `self.gt`.
            options: out of `self.options`.

        Returns:
            The official numbers, and the error of every sample.

        Raises:
            UserError: an array is missing or has the wrong shape, or an option is unknown.
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            raise UserError(f"{self.name} has no option {unknown[0]!r}, it has {', '.join(self.options) or 'none'}")
        pred = self.checked("predictions", pred, self.pred, self.pred_optional)
        gt = self.checked("ground truth", gt, self.gt, self.gt_optional)
        (name, first), *others = [*pred.items(), *((f"ground truth {name}", values) for name, values in gt.items())]
        for other, values in others:
            if len(values) != len(first):
                raise UserError(f"{self.name}: {name} has {len(first)} samples but {other} has {len(values)}")
        if not len(first):
            raise UserError(f"{self.name}: there are no samples")
        return self.measure(pred, gt, **options)

    def checked(
        self, side: str, found: dict, needed: dict[str, tuple], optional: dict[str, tuple]
    ) -> dict[str, np.ndarray]:
        """The arrays of one side that the protocol reads, with their shapes checked.

        Args:
            side: "predictions" or "ground truth", for errors.
            found: arrays by name.
            needed: shapes of the arrays that must be there.
            optional: shapes of those that may be there.

        Raises:
            UserError: an array is missing or has the wrong shape.
        """
        arrays = {}
        for name, shape in (needed | optional).items():
            if found.get(name) is None:
                if name in needed:
                    raise UserError(f"{self.name}: the {side} lack {name!r}, {_text(shape)}")
                continue
            try:
                arrays[name] = array = np.asarray(found[name])
            except ValueError:  # nested lists of several lengths
                raise UserError(f"{self.name}: {side} {name!r} must be {_text(shape)}, its samples differ") from None
            pairs = zip(array.shape[1:], shape)
            fits = all(want is None or have in (want if isinstance(want, tuple) else (want,)) for have, want in pairs)
            if array.ndim != len(shape) + 1 or not fits:
                raise UserError(f"{self.name}: {side} {name!r} must be {_text(shape)}, it is {array.shape}")
        return arrays


def _text(shape) -> str:
    sizes = ("any" if size is None else "|".join(map(str, size)) if isinstance(size, tuple) else size for size in shape)
    return f"({', '.join(['N', *map(str, sizes)])})"


def in_pieces(function: Callable, size: int, *arrays) -> dict[str, np.ndarray]:
    """Apply a function to long arrays in pieces of one shape, so that a set compiles only one program.

    Args:
        function: (B, …) arrays → dict of (B, …) arrays.
        size: B, samples in a piece. The last piece is filled up with the last sample.
        arrays: (N, …) each.

    Returns:
        What the function returns, as NumPy arrays (N, …).
    """
    count, found = len(arrays[0]), {}
    size = min(size, count)
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        for name, piece in function(*(array[rows] for array in arrays)).items():
            piece = np.asarray(piece)
            if name not in found:
                found[name] = np.empty((count, *piece.shape[1:]), piece.dtype)
            found[name][start : start + size] = piece[: count - start]
    return found


def in_mm(unit_mm: float, origin: ArrayLike, *points: ArrayLike) -> list[np.ndarray]:
    """Points relative to an origin in mm; in float64, so that a hand metres away loses no digits.

    Args:
        unit_mm: unit of the points, in mm.
        origin: (B, 1, 3).
        points: (B, N, 3) each.
    """
    return [(np.asarray(p, np.float64) - np.asarray(origin)) * unit_mm for p in points]
