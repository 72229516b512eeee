"""A tensor in a file: its elements are read on request and not kept."""

import math
import zlib
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jaxhand.config import UserError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Tensor(NamedTuple):
    """The location of a tensor's elements. It is a tuple, so that no pickle can change the file that it refers to."""

    file: Path
    start: int  # byte of its first element
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements, none negative
    crc: int = 0  # CRC-32 of its bytes; 0: unknown

    @property
    def span(self) -> int:
        """Number of elements in the file from its first to its last one."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))

    def read(self) -> np.ndarray:
        """Read the elements.

        Returns:
            Array of `shape`; floating-point numbers of any width as float32.

        Raises:
            UserError: the file is truncated or its checksum differs.
        """
        raw = np.fromfile(self.file, np.uint8, self.span * self.dtype.itemsize, offset=self.start)
        if raw.nbytes != self.span * self.dtype.itemsize:
            raise UserError(f"{self.file}: ends at byte {self.start + raw.nbytes}, inside a tensor; download it again")
        if self.crc and zlib.crc32(raw.data) != self.crc:
            raise UserError(
                f"{self.file}: the tensor at byte {self.start} is damaged (its checksum differs); download it again"
            )
        steps = [stride * self.dtype.itemsize for stride in self.strides]
        values = np.lib.stride_tricks.as_strided(raw.view(self.dtype), self.shape, steps, writeable=False)
        is_float = self.dtype.kind == "f" or self.dtype == BFLOAT16
        return values.astype(np.float32, copy=False) if is_float else values


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array in row-major order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
