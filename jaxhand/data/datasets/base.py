"""What readers of photographs share: decoding on demand, and images that are files of their own."""

import abc
import dataclasses
from pathlib import Path

import numpy as np

from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.record import Record
from jaxhand.io import files


class EncodedImageSource(abc.ABC):
    """A source whose images are `EncodedImage`s until they are decoded."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read_encoded(self, i: int) -> Record:
        """Record i whose image is an `EncodedImage`."""

    def __getitem__(self, i: int) -> Record:
        record = self.read_encoded(i)
        return dataclasses.replace(record, image=record.image.pixels)


class ImageDataset(EncodedImageSource):
    """A source; a reader says how many records it has, what their labels are, and which files they are of."""

    @abc.abstractmethod
    def read_annotation(self, i: int) -> Record:
        """Record i without image and depth."""

    @abc.abstractmethod
    def file(self, i: int) -> Path:
        """The image file of record i."""

    def depth(self, i: int) -> np.ndarray | None:
        """Depth (H, W) of record i in mm, 0 where unknown, or None where there is none."""
        return None

    def read_encoded(self, i: int) -> Record:
        """Record i whose image is an `EncodedImage`."""
        return dataclasses.replace(self.read_annotation(i), image=EncodedImage.read(self.file(i)), depth=self.depth(i))

    def encoded(self, i: int) -> tuple[bytes, bytes | None]:
        """The image file of record i as it is, and its depth file where that is a 16-bit PNG in mm."""
        return files.read_bytes(self.file(i)), None


class SizedImageDataset(ImageDataset):
    """One whose labels need the size of the image, which is read once for both."""

    @abc.abstractmethod
    def sized(self, i: int, size: tuple[int, int]) -> Record:
        """Record i without its image, of that width and height in px."""

    def read_annotation(self, i: int) -> Record:
        """Record i without its image, of which only the size is read."""
        return self.sized(i, EncodedImage.read(self.file(i)).size)

    def read_encoded(self, i: int) -> Record:
        """Record i whose image is an `EncodedImage`."""
        photo = EncodedImage.read(self.file(i))
        return dataclasses.replace(self.sized(i, photo.size), image=photo)
