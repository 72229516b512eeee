"""The contract of a labelled hand, for all data sets.

A *source* is any object with `__len__` and `__getitem__(i) -> Record`. It uses only NumPy and can be called from many
threads. A source may offer two cheaper methods: `read_annotation(i)` returns the record with `image` None.
`read_encoded(i)` returns the record with an `EncodedImage` as `image`; a crop decodes only the region it needs.
It may also have the attribute `left_out`: one sentence for each kind of hand that it does not contain, for the user.
"""

import dataclasses
import typing

import numpy as np

from jaxhand.data.images.encoded import EncodedImage


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled hand: millimetres in the OpenCV camera frame, RGB, integer pixel coordinates are pixel centres.

    If `keypoints_2d` is None, the 2D labels are the projections of `keypoints_3d`, and `joint_valid` is their validity.
    A hand labelled only in 2D has `keypoints_2d` and `joint_valid_2d`; its `joint_valid` is 0.
    """

    image: np.ndarray | EncodedImage | None  # (H, W, 3) uint8; see above for the other types
    K: np.ndarray  # (3, 3)
    keypoints_3d: np.ndarray  # (21, 3) mm
    joint_valid: np.ndarray  # (21,) 1 for joints that are labelled in 3D
    hand: str  # "right" or "left"
    depth: np.ndarray | None = None  # (H, W) mm, 0 where unknown
    bbox: np.ndarray | None = None  # (4,) x0, y0, x1, y1 px
    vertices: np.ndarray | None = None  # (V, 3) mm
    mano_pose: np.ndarray | None = None  # (48,) axis-angle
    mano_shape: np.ndarray | None = None  # (10,)
    mesh: str = "mano"  # hand model of vertices, pose and shape: "mano" or "builtin"
    name: str = ""
    keypoints_2d: np.ndarray | None = None  # (21, 2) px of the image
    joint_valid_2d: np.ndarray | None = None  # (21,) 1 for joints that are labelled in 2D; required with `keypoints_2d`

    @property
    def pixels(self) -> np.ndarray:
        """The image as an array (H, W, 3) uint8; an `EncodedImage` is decoded.

        Raises:
            ValueError: the record has no image, as those of `read_annotation`.
            UserError: the image cannot be decoded.
        """
        if self.image is None:
            raise ValueError(f"record {self.name!r} was read without its image")
        return self.image.pixels if isinstance(self.image, EncodedImage) else self.image


@typing.runtime_checkable
class Source(typing.Protocol):
    """Labelled hands by index, 0 to len - 1. The module's docstring describes what a source may offer in addition."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


class WithoutDepth:
    """A source without its depth images."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return dataclasses.replace(self._source[index], depth=None)

    def read_encoded(self, index: int) -> Record:
        """Return record `index`; its image is an `EncodedImage` if the source supports that."""
        return dataclasses.replace(read_encoded(self._source, index), depth=None)

    def read_annotation(self, index: int) -> Record:
        """Return record `index` without image and depth."""
        return dataclasses.replace(read_annotation(self._source, index), depth=None)


def read_annotation(source: Source, index: int) -> Record:
    """Return record `index` for its labels. No image is decoded if the source supports that."""
    return getattr(source, "read_annotation", source.__getitem__)(int(index))


def read_encoded(source: Source, index: int) -> Record:
    """Return record `index` for cropping. Its image is an `EncodedImage` if the source supports that."""
    return getattr(source, "read_encoded", source.__getitem__)(int(index))


def sample_joints(source: Source, max_records: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the joints of records that are evenly spread over a source. Left hands are mirrored to right hands.

    Args:
        source: the source of records.
        max_records: largest number of records that are read. Records without a joint in 3D are left out; N may be 0.

    Returns:
        Joints (N, 21, 3) mm and their validity (N, 21), float32.
    """
    return stacked_joints([read_annotation(source, i) for i in spread(len(source), max_records)])


def spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` of the indices 0 to count - 1, evenly spread, in increasing order."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


def stacked_joints(records: list[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Return joints (N, 21, 3) mm and validity (N, 21), float32, of records with 3D labels. Left hands are mirrored."""
    records = [record for record in records if np.any(record.joint_valid)]
    mirror = np.array([[1 if record.hand == "right" else -1, 1, 1] for record in records], np.float32).reshape(-1, 1, 3)
    joints = np.array([record.keypoints_3d for record in records], np.float32).reshape(-1, 21, 3)
    return joints * mirror, np.array([record.joint_valid for record in records], np.float32).reshape(-1, 21)
