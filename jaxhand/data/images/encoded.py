"""A photograph as the bytes of its file: decoded no finer than its crop needs, and turned by the warp alone."""

import dataclasses
import functools
import math
import threading
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from jaxhand.config import UserError
from jaxhand.data.images.header import first_rows, image_size, orientation

# EXIF orientation → the image's axes as those of the stored pixels: are they swapped, does x, does y run backwards?
_TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
_MARGIN = 33  # rows: colours are spread from blocks of up to 32
_SHRINKS = (8, 4, 2)  # that JPEG decoders do at once, in less time than the whole image takes
_memory = threading.local()


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """An image file's bytes.

    Args:
        content: the file as it is; nothing is looked at before it is asked for.
        where: what errors call it, such as "image PATH".
        exif: turn it as its EXIF header says.
    """

    content: bytes
    where: str
    exif: bool = True

    @staticmethod
    def read(path: str | Path, labels: str = "") -> "EncodedImage":
        """The photograph in a file, which errors name after the place of its labels, where that is given.

        Raises:
            UserError: there is no such file.
        """
        where = f"{labels}: image {path}" if labels else f"image {path}"
        try:
            with open(path, "rb", buffering=0) as file:
                return EncodedImage(file.read(), where)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise UserError(f"{where} does not exist") from None
        except OSError:
            return EncodedImage(b"", where)

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """RGB (H, W, 3) uint8, whatever it was: grey, with alpha, 16 bits, turned by EXIF.

        Raises:
            UserError: it is not a whole image.
        """
        found = decode(self.content, cv2.IMREAD_COLOR_RGB | (0 if self.exif else cv2.IMREAD_IGNORE_ORIENTATION))
        if found is None:
            raise UserError(f"{self.where} is not an image or is cut off")
        return found

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px, of a JPEG without decoding it. Raises UserError as `pixels` does."""
        stored = self._stored
        if stored is None:
            return self.pixels.shape[1::-1]
        width, height, turn = stored
        return (height, width) if _TURNS.get(turn, (False,))[0] else (width, height)

    def part(self, corners: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
        """What a crop needs of the pixels: of a JPEG at 1, 1/2, 1/4 or 1/8 of its size, and to the last row needed.

        Args:
            corners: (2, n) x, y px in the image, around all that is needed.
            most: how many pixels in a row may become one; the size is the least that keeps to it.

        Returns:
            (h, w, 3) uint8 RGB and a 3x3 matrix from its pixel coordinates to those of the image. The pixels are
            overwritten by the thread's next call.

        Raises:
            UserError: it is not a whole image.
        """
        if self._stored is not None:
            width, height, turn = self._stored
            shrink = next((s for s in _SHRINKS if s <= most and min(width, height) >= s), 1)
            T = _turn(turn, width, height)
            last = (T[:2, 1] @ (corners - T[:2, 2:])).max()  # T is orthogonal
            rows = int(min(max(last, 0) + 2 * most + _MARGIN, height))
            cut = first_rows(self.content, rows) if rows < height else None
            w, h = -(-width // shrink), -(-(rows if cut else height) // shrink)
            try:
                pixels = simplejpeg.decode_jpeg(
                    cut or self.content, "RGB", min_height=h, min_width=w, buffer=reused("decoded", (h, w, 3)),
                    strict=cut is None,  # what is left over of a cut one counts as an error
                )  # fmt: skip
                return pixels, T @ enlarge(shrink)
            except ValueError:  # damaged, or of a kind that only OpenCV knows
                pass
        return self.pixels, np.eye(3)

    @functools.cached_property
    def _stored(self) -> tuple[int, int, int] | None:
        """Width, height and EXIF orientation of a JPEG that is not cut off, as it is stored; else None."""
        whole = self.content.startswith(b"\xff\xd8") and self.content.endswith(b"\xff\xd9")
        size = image_size(self.content) if whole else None
        return size and (*size, orientation(self.content) if self.exif else 1)


def decode(content: bytes, flags: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray | None:
    """The bytes of an image file as RGB (H, W, 3) uint8, or None where they are none.

    OpenCV drops alpha, spreads grey, turns by EXIF and brings 16 bits to 8, unless `flags` say otherwise.
    """
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None


def read_image(path: str | Path) -> np.ndarray:
    """A photograph as RGB (H, W, 3) uint8, as `EncodedImage.pixels` says.

    Raises:
        UserError: there is no such file, or it is not a whole image.
    """
    return EncodedImage.read(path).pixels


def reused(purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 array in memory that this thread reuses for a purpose: fresh memory would cost as much as decoding."""
    count, kept = math.prod(shape), vars(_memory).get(purpose)
    if kept is None or kept.size < count:
        kept = vars(_memory)[purpose] = np.empty(count, np.uint8)
    return kept[:count].reshape(shape)


def _turn(orientation: int, width: int, height: int) -> np.ndarray:
    """Coordinates of stored pixels (of width x height) → those of the turned image."""
    swapped, x_back, y_back = _TURNS.get(orientation, (False, False, False))
    matrix = np.eye(3)
    if swapped:
        matrix, width, height = matrix[[1, 0, 2]], height, width
    if x_back:
        matrix[0] = (0, 0, width - 1) - matrix[0]
    if y_back:
        matrix[1] = (0, 0, height - 1) - matrix[1]
    return matrix


def enlarge(factor: int) -> np.ndarray:
    """Coordinates of pixels that each stand for a block of `factor` x `factor` → coordinates of the blocks' pixels."""
    return np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
