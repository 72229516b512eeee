"""Base classes of the readers: MANO's arrays for labels, and sources of encoded images."""

import abc
import dataclasses
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.record import Record
from jaxhand.hand.mano_pose import select_side
from jaxhand.io import files


class UnknownSplit(UserError):
    """The data set has no such variant or split: a mistake in its name, not in its files."""


@dataclasses.dataclass(frozen=True)
class ManoLabels:
    """MANO's arrays that readers need. Without an array, the labels that need this array are not read.

    Args:
        hands_mean: (S, 45) MANO's mean pose as axis-angles; S is 1 (only right) or 2 (right, left). It is needed for
            data sets that store poses as offsets from the mean pose.
        components: (S, 45, 45) `hands_components`. They are needed for data sets that store poses as coefficients.
        vertices: read the vertices as well.
    """

    hands_mean: np.ndarray | None = None
    components: np.ndarray | None = None
    vertices: bool = False

    def mean_of(self, side: str) -> np.ndarray | None:
        """Return the mean pose (45,) of a "right" or "left" hand; None if it is not available."""
        return select_side(self.hands_mean, (45,), side)

    def components_of(self, side: str) -> np.ndarray | None:
        """Return the components (45, 45) of a "right" or "left" hand; None if they are not available."""
        return select_side(self.components, (45, 45), side)


class EncodedImageSource(abc.ABC):
    """A source of encoded images. Only `source[i]` decodes the image of a record."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read_encoded(self, i: int) -> Record:
        """Return record i with its image as an `EncodedImage`."""

    def __getitem__(self, i: int) -> Record:
        record = self.read_encoded(i)
        return dataclasses.replace(record, image=record.pixels)


class ImageDataset(EncodedImageSource):
    """A source with one image file per record. Subclasses define `__len__`, `read_annotation` and `file`."""

    @abc.abstractmethod
    def read_annotation(self, i: int) -> Record:
        """Return record i without image and depth."""

    @abc.abstractmethod
    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""

    def depth(self, i: int) -> np.ndarray | None:
        """Return the depth image (H, W) of record i in mm, 0 where unknown; None if it has no depth image."""
        return None

    def read_encoded(self, i: int) -> Record:
        """Return record i with its image as an `EncodedImage`."""
        return dataclasses.replace(self.read_annotation(i), image=EncodedImage.read(self.file(i)), depth=self.depth(i))

    def encoded(self, i: int) -> tuple[bytes, bytes | None]:
        """Return the bytes of the image file of record i, and of its depth file if this is a 16-bit PNG in mm."""
        return files.read_bytes(self.file(i)), None


class SizedImageDataset(ImageDataset):
    """An `ImageDataset` whose labels depend on the size of the image. An image file is read once for image and size."""

    @abc.abstractmethod
    def annotate(self, i: int, image_size: tuple[int, int]) -> Record:
        """Return record i without its image. `image_size` is width and height of the image, px."""

    def read_annotation(self, i: int) -> Record:
        """Return record i without its image. Only the size of the image is read."""
        return self.annotate(i, EncodedImage.read(self.file(i)).size)

    def read_encoded(self, i: int) -> Record:
        """Return record i with its image as an `EncodedImage`."""
        image = EncodedImage.read(self.file(i))
        return dataclasses.replace(self.annotate(i, image.size), image=image)
