"""Images as the bytes of their files. Only the region that a crop needs is decoded, at the required resolution."""

import dataclasses
import functools
import math
import threading
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from jaxhand.config import UserError, limits
from jaxhand.data.images.header import first_rows, focal_length, image_size, orientation
from jaxhand.data.images.heic import decode_heic, is_heic
from jaxhand.data.images.sizes import check_size

# EXIF orientation → (axes swapped, x reversed, y reversed), to convert the stored image to the upright image
_ORIENTATIONS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
_MARGIN = 33  # number of extra rows that are decoded, because JPEG stores colours in blocks of up to 32 rows
_HEADER_BYTES = 2**16  # of a file; they nearly always contain the size, which follows EXIF data of at most 64 kB
_DAMAGE = ("Corrupt", "Premature", "Inconsistent", "Invalid SOS")  # first words of libjpeg's warnings about damage
_SHRINKS = (8, 4, 2)  # factors by which a JPEG decoder can reduce the size; faster than decoding all pixels
_memory = threading.local()


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file. They are decoded only when a property or a region is read.

    Args:
        content: the bytes of the file.
        location: name of the image in error messages, such as "image PATH".
        exif: rotate and mirror the image by its EXIF orientation.
    """

    content: bytes
    location: str
    exif: bool = True

    @staticmethod
    def read(path: str | Path, labels: str = "") -> "EncodedImage":
        """Read an image file.

        Args:
            path: the file.
            labels: location of the image's labels, such as "train.jsonl:3", for the start of error messages.

        Raises:
            UserError: the file does not exist.
        """
        location = f"{labels}: image {path}" if labels else f"image {path}"
        try:
            with open(path, "rb", buffering=0) as file:
                return EncodedImage(file.read(), location)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):  # ValueError: a NUL character
            raise UserError(f"{location} does not exist") from None
        except OSError:
            return EncodedImage(b"", location)

    @staticmethod
    def read_size(path: str | Path) -> tuple[int, int] | None:
        """Return width and height of an image file as `size`, from its first bytes; None if they do not show it."""
        try:
            with open(path, "rb", buffering=0) as file:
                first = file.read(_HEADER_BYTES)
        except OSError:
            return None
        return EncodedImage(first, "").header_size if image_size(first) else None

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """The image as RGB (H, W, 3) uint8, upright by EXIF; grey, alpha and 16 bits are converted.

        Raises:
            UserError: the file is not an image, or is cut off.
        """
        flags = cv2.IMREAD_COLOR_RGB | (0 if self.exif else cv2.IMREAD_IGNORE_ORIENTATION)
        if is_heic(self.content):
            return decode_heic(self.content, self.location)
        pixels = decode(self.content, flags, self.location)
        if pixels is None:
            raise UserError(f"{self.location} is not an image or is cut off")
        return pixels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px. A JPEG is not decoded for this. Raises UserError as `pixels` does."""
        stored = self._stored
        if stored is None:
            return self.pixels.shape[1::-1]
        width, height, exif = stored
        return (height, width) if _ORIENTATIONS.get(exif, (False,))[0] else (width, height)

    @property
    def header_size(self) -> tuple[int, int]:
        """Width and height in px, as `size`, but without a check that a JPEG or PNG is complete: nothing is decoded."""
        stored = image_size(self.content)
        if stored is None:
            return self.size
        width, height = stored
        return (height, width) if _ORIENTATIONS.get(self.exif_orientation, (False,))[0] else (width, height)

    def verify(self) -> None:
        """Decode all pixels with a strict decoder, which also detects a JPEG that is damaged inside.

        Raises:
            UserError: the file is not an image, is cut off, or is damaged inside.
        """
        try:
            simplejpeg.decode_jpeg(self.content, "RGB", strict=True)
        except ValueError as error:
            _ = self.pixels  # another format, or a JPEG that cannot be decoded at all
            if str(error).startswith(_DAMAGE):
                raise UserError(f"{self.location} is damaged inside ({error}): restore or download it again") from None

    @property
    def exif_orientation(self) -> int:
        """EXIF orientation of a JPEG, 1 to 8, by which `pixels` are turned; 1 where they are not turned."""
        return orientation(self.content) if self.exif else 1

    @property
    def focal_length(self) -> float | None:
        """Focal length in px by the EXIF data of a JPEG, for the image at full size; None where they state none."""
        return focal_length(self.content)

    def decode_region(self, corners: np.ndarray, max_shrink: float) -> tuple[np.ndarray, np.ndarray]:
        """Decode the region that a crop needs. A JPEG is reduced by the factor 1, 2, 4 or 8; rows below are skipped.

        Args:
            corners: (2, n) x, y px in the image: the corners of the region.
            max_shrink: largest factor by which the image may be reduced. The largest possible factor is used.

        Returns:
            (h, w, 3) uint8 RGB, and a 3x3 matrix from the pixel coordinates of this result to those of the image. The
            next call in the same thread overwrites the pixels.

        Raises:
            UserError: the file is not an image, or is cut off.
        """
        if self._stored is not None:
            width, height, exif = self._stored
            shrink = next((s for s in _SHRINKS if s <= max_shrink and min(width, height) >= s), 1)
            T = _upright(exif, width, height)
            last_row = (T[:2, 1] @ (corners - T[:2, 2:])).max()  # T is orthogonal
            rows = int(min(max(last_row, 0) + 2 * max_shrink + _MARGIN, height))
            cut = first_rows(self.content, rows) if rows < height else None
            w, h = -(-width // shrink), -(-(rows if cut else height) // shrink)
            try:
                pixels = simplejpeg.decode_jpeg(
                    cut or self.content, "RGB", min_height=h, min_width=w, buffer=scratch("decoded", (h, w, 3)),
                    strict=cut is None,  # a strict decoder rejects a cut file
                )  # fmt: skip
                return pixels, T @ block_centers(shrink)
            except ValueError:  # the JPEG is damaged, or only OpenCV can decode it
                pass
        return self.pixels, np.eye(3)

    @functools.cached_property
    def _stored(self) -> tuple[int, int, int] | None:
        """Width and height of a JPEG before its EXIF orientation, and the orientation; None if not a complete JPEG."""
        complete = self.content.startswith(b"\xff\xd8") and self.content.endswith(b"\xff\xd9")
        size = image_size(self.content) if complete and check_size(self.content, self.location) else None
        return size and (*size, orientation(self.content) if self.exif else 1)


def decode(content: bytes, flags: int = cv2.IMREAD_COLOR_RGB, location: str = "an image") -> np.ndarray | None:
    """Decode the bytes of an image file with OpenCV.

    Args:
        content: the bytes.
        flags: flags of cv2.imdecode.
        location: name of the image in error messages.

    Returns:
        RGB (H, W, 3) uint8: without alpha, grey as three channels, upright by EXIF, 16 bits reduced to 8; other
        `flags` change this. None if the bytes are not an image.

    Raises:
        UserError: the image has too many pixels.
    """
    if not check_size(content, location, limits.DEPTH_PIXELS if flags == cv2.IMREAD_UNCHANGED else limits.PIXELS):
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # raised for some damaged files; for others, None is returned
        return None
    if pixels is None or flags & cv2.IMREAD_IGNORE_ORIENTATION:
        return pixels
    # OpenCV itself ignores orientations of 32 bits in big-endian EXIF data, and those of AVIF
    swapped, x_reversed, y_reversed = _ORIENTATIONS.get(orientation(content), (False, False, False))
    pixels = cv2.transpose(pixels) if swapped else pixels
    pixels = cv2.flip(pixels, 1) if x_reversed else pixels
    return cv2.flip(pixels, 0) if y_reversed else pixels


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as RGB (H, W, 3) uint8; see `EncodedImage.pixels`.

    Raises:
        UserError: the file does not exist, is not an image, or is cut off.
    """
    return EncodedImage.read(path).pixels


def scratch(purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a uint8 array in memory that this thread reuses for `purpose`: new memory takes as long as decoding."""
    count, kept = math.prod(shape), vars(_memory).get(purpose)
    if kept is None or kept.size < count:
        kept = vars(_memory)[purpose] = np.empty(count, np.uint8)
    return kept[:count].reshape(shape)


def _upright(orientation: int, width: int, height: int) -> np.ndarray:
    """Return a 3x3 matrix from pixel coordinates of the stored image (width x height) to those of the upright image."""
    swapped, x_reversed, y_reversed = _ORIENTATIONS.get(orientation, (False, False, False))
    matrix = np.eye(3)
    if swapped:
        matrix, width, height = matrix[[1, 0, 2]], height, width
    if x_reversed:
        matrix[0] = (0, 0, width - 1) - matrix[0]
    if y_reversed:
        matrix[1] = (0, 0, height - 1) - matrix[1]
    return matrix


def block_centers(factor: int) -> np.ndarray:
    """Return a 3x3 matrix from pixels of an image that was reduced by `factor` to centres of blocks in the original."""
    return np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
