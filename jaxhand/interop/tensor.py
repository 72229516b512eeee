"""A tensor in a file. Its elements are read only on request, and are not cached."""

import math
import zlib
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jaxhand.config import UserError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Tensor(NamedTuple):
    """The location of a tensor's elements in a file. It is a tuple, because a pickle cannot change a tuple."""

    file: Path
    start: int  # offset of the first element in the file, bytes
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # step along each axis, in elements; never negative
    crc: int = 0  # CRC-32 checksum of the tensor's bytes; 0: unknown

    @property
    def span(self) -> int:
        """Number of elements in the file from the tensor's first element to its last one, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))

    def read(self) -> np.ndarray:
        """Read the elements.

        Returns:
            Array of `shape`; float32 for all floating-point types, else of the tensor's type.

        Raises:
            UserError: the file is truncated, or the checksum differs.
        """
        raw = np.fromfile(self.file, np.uint8, self.span * self.dtype.itemsize, offset=self.start)
        if raw.nbytes != self.span * self.dtype.itemsize:
            raise UserError(
                f"{self.file}: the file ends at byte {self.start + raw.nbytes}, inside a tensor; download it again"
            )
        if self.crc and zlib.crc32(raw.data) != self.crc:
            raise UserError(
                f"{self.file}: the tensor at byte {self.start} is damaged (wrong checksum); download the file again"
            )
        steps = [stride * self.dtype.itemsize for stride in self.strides]
        values = np.lib.stride_tricks.as_strided(raw.view(self.dtype), self.shape, steps, writeable=False)
        is_float = self.dtype.kind == "f" or self.dtype == BFLOAT16
        return values.astype(np.float32, copy=False) if is_float else values


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array in row-major order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
