"""The One Euro filter: smooth values that arrive one after another (Casiez, Roussel, Vogel, CHI 2012)."""

import numpy as np

MIN_CUTOFF, BETA = 1.5, 0.01  # Hz; Hz per mm/s
SPEED_CUTOFF = 1.0  # Hz, of the low-pass filter of the speed, as in the paper


class OneEuroFilter:
    """A low-pass filter with a cutoff frequency that rises with the speed: little jitter at rest, little lag in motion.

    All entries of an array are filtered independently of each other.

    Args:
        min_cutoff: cutoff frequency at rest, Hz; lower values smooth more. Infinity: no smoothing.
        beta: Hz by which the cutoff rises for each unit of speed; higher values lag less.
    """

    def __init__(self, min_cutoff: float = MIN_CUTOFF, beta: float = BETA):
        self.min_cutoff, self.beta = min_cutoff, beta
        self._seconds = 0.0
        self._value: np.ndarray | None = None
        self._speed = np.zeros(())

    def __call__(self, value: np.ndarray, seconds: float, *, unit: float = 1.0) -> np.ndarray:
        """Filter the next value.

        Args:
            value: array of the same shape in every call.
            seconds: time of the value; later than that of the call before.
            unit: factor from the value's unit to the unit of `beta`.

        Returns:
            The filtered value, of the same shape.
        """
        value = np.asarray(value, np.float64)
        if self._value is None:
            self._value, self._speed = value, np.zeros_like(value)
        else:
            step = seconds - self._seconds
            self._speed = self._speed + _weight(SPEED_CUTOFF, step) * ((value - self._value) / step - self._speed)
            cutoff = self.min_cutoff + self.beta * unit * np.abs(self._speed)
            self._value = self._value + _weight(cutoff, step) * (value - self._value)
        self._seconds = seconds
        return self._value


def _weight(cutoff, step: float):
    """Weight of a new value in a first-order low-pass filter: 1 / (1 + tau / step), tau = 1 / (2 pi cutoff)."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))
