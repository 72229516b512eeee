"""The interface of a benchmark's protocol, and functions to score a large set in several pieces."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from jaxhand.config import UserError


@dataclass(frozen=True)
class Scores:
    """Scores of a data set by one protocol. Values that are not finite are not left out."""

    values: dict[str, float]  # name → score, with the official code's names and units
    samples: dict[str, np.ndarray]  # name → (N,) errors; NaN: the protocol leaves the sample out
    units: dict[str, str]  # name → unit of `values` and `samples`, such as "cm"; none: a fraction of 1
    # Name → (J,) mean error of each joint in mm, in the official order; NaN for a joint that is never measured.
    joints: dict[str, np.ndarray] = field(default_factory=dict)
    # Name → (2, T): thresholds in mm, and the fraction of distances <= each threshold.
    curves: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """How a benchmark's official code scores predictions.

    Shapes are without the axis of samples. Each size is an int, a tuple of allowed ints, or None for any size.
    """

    name: str
    measure: Callable[..., Scores]  # function (pred, gt, **options); the arrays are already checked
    pred: dict[str, tuple]  # name → shape of each required array
    gt: dict[str, tuple]
    source: str  # repository and file of the official code
    unit_mm: float = 1.0  # unit of the 3D points, in mm
    joint_order: str = "freihand"  # key of `jaxhand.hand.skeleton.JOINT_ORDERS`
    joints: int = 21  # number of joints; 42: a right and a left hand, each in `joint_order`
    pred_optional: dict[str, tuple] = field(default_factory=dict)
    gt_optional: dict[str, tuple] = field(default_factory=dict)

    @property
    def options(self) -> dict:
        """Names and defaults of the keyword options of `score`."""
        parameters = inspect.signature(self.measure).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def score(self, pred: dict, gt: dict, **options) -> Scores:
        """Score all samples of a data set.

        Args:
            pred: arrays (N, …) by the names of `self.pred`, in the official code's units, frame and joint order.
            gt: arrays (N, …) by the names of `self.gt`.
            options: values of options in `self.options`.

        Returns:
            The official numbers, and the error of every sample.

        Raises:
            UserError: an array is missing or has the wrong shape, or an option is unknown.
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            raise UserError(f"{self.name}: no option {unknown[0]!r}; its options: {', '.join(self.options) or 'none'}")
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
        """Check the shapes of predictions or of the ground truth, and return the arrays that the protocol uses.

        Args:
            side: "predictions" or "ground truth", for error messages.
            found: arrays by name.
            needed: name → shape of each required array.
            optional: name → shape of each optional array.

        Raises:
            UserError: an array is missing or has the wrong shape.
        """
        arrays = {}
        for name, shape in (needed | optional).items():
            if found.get(name) is None:
                if name in needed:
                    raise UserError(f"{self.name}: the {side} lack {name!r} with shape {_text(shape)}")
                continue
            try:
                arrays[name] = array = np.asarray(found[name])
            except ValueError:  # nested lists of different lengths
                raise UserError(f"{self.name}: {side} {name!r} must be {_text(shape)}; the shapes differ") from None
            pairs = zip(array.shape[1:], shape)
            fits = all(want is None or have in (want if isinstance(want, tuple) else (want,)) for have, want in pairs)
            if array.ndim != len(shape) + 1 or not fits:
                raise UserError(f"{self.name}: {side} {name!r} must be {_text(shape)}, got {array.shape}")
        return arrays


def _text(shape) -> str:
    sizes = ("any" if size is None else "|".join(map(str, size)) if isinstance(size, tuple) else size for size in shape)
    return f"({', '.join(['N', *map(str, sizes)])})"


def in_pieces(function: Callable, size: int, *arrays) -> dict[str, np.ndarray]:
    """Apply a function to long arrays in pieces of equal size, so that JAX compiles the function only once.

    Args:
        function: (B, …) arrays → dict of (B, …) arrays.
        size: B, number of samples per piece. The last piece is padded with copies of the last sample.
        arrays: (N, …) each.

    Returns:
        The results of all pieces, joined to NumPy arrays (N, …).
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
    """Points relative to an origin, in mm. Float64 keeps the digits of a hand that is metres away.

    Args:
        unit_mm: unit of the points, in mm.
        origin: (B, 1, 3).
        points: (B, N, 3) each.
    """
    return [(np.asarray(p, np.float64) - np.asarray(origin)) * unit_mm for p in points]
