"""Classes that several readers use: MANO's arrays for labels, and sources whose images stay encoded."""

import abc
import dataclasses
from pathlib import Path

import numpy as np

from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.record import Record
from jaxhand.hand.mano_pose import select_side
from jaxhand.io import files


@dataclasses.dataclass(frozen=True)
class ManoLabels:
    """The arrays of MANO's files that readers need. Mesh labels that need a missing array are not read.

    Args:
        hands_mean: (S, 45) MANO's mean pose as axis-angles; S is 1 for the right hand alone, 2 for right and left.
            Sets that write poses as offsets from it have no poses without it.
        components: (S, 45, 45) `hands_components`, for sets that write poses as coefficients of them.
        vertices: read the vertices as well.
    """

    hands_mean: np.ndarray | None = None
    components: np.ndarray | None = None
    vertices: bool = False

    def mean_of(self, side: str) -> np.ndarray | None:
        """The mean pose (45,) of a "right" or "left" hand; None if it is not given."""
        return select_side(self.hands_mean, (45,), side)

    def components_of(self, side: str) -> np.ndarray | None:
        """The components (45, 45) of a "right" or "left" hand; None where they are not given."""
        return select_side(self.components, (45, 45), side)


class EncodedImageSource(abc.ABC):
    """A source whose images stay encoded until `[i]` reads a record."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read_encoded(self, i: int) -> Record:
        """Return record i with its image as an `EncodedImage`."""

    def __getitem__(self, i: int) -> Record:
        record = self.read_encoded(i)
        return dataclasses.replace(record, image=record.pixels)


class ImageDataset(EncodedImageSource):
    """A source with one image file per record. A reader adds `__len__`, `read_annotation` and `file`."""

    @abc.abstractmethod
    def read_annotation(self, i: int) -> Record:
        """Return record i without image and depth."""

    @abc.abstractmethod
    def file(self, i: int) -> Path:
        """Return the path of the image of record i."""

    def depth(self, i: int) -> np.ndarray | None:
        """Return the depth image (H, W) of record i in mm, 0 where unknown; None where there is none."""
        return None

    def read_encoded(self, i: int) -> Record:
        """Return record i with its image as an `EncodedImage`."""
        return dataclasses.replace(self.read_annotation(i), image=EncodedImage.read(self.file(i)), depth=self.depth(i))

    def encoded(self, i: int) -> tuple[bytes, bytes | None]:
        """Return the bytes of the image file of record i, and of its depth file where that is a 16-bit PNG in mm."""
        return files.read_bytes(self.file(i)), None


class SizedImageDataset(ImageDataset):
    """An `ImageDataset` whose labels depend on the size of the image; each image file is opened once for both."""

    @abc.abstractmethod
    def annotate(self, i: int, image_size: tuple[int, int]) -> Record:
        """Return record i without its image, which has this width and height in px."""

    def read_annotation(self, i: int) -> Record:
        """Return record i without its image, of which only the size is read."""
        return self.annotate(i, EncodedImage.read(self.file(i)).size)

    def read_encoded(self, i: int) -> Record:
        """Return record i with its image as an `EncodedImage`."""
        image = EncodedImage.read(self.file(i))
        return dataclasses.replace(self.annotate(i, image.size), image=image)
