"""The contract of a labelled hand, whatever data set it comes from.

A *source* is any object with `__len__` and `__getitem__(i) -> Record`: NumPy only, safe to call from many threads. It
may return the same record in two cheaper forms: `read_annotation(i)` without its image (`image` is None), and
`read_encoded(i)` with an `EncodedImage` as `image`, of which a crop decodes only what it needs.
"""

import dataclasses
import typing

import numpy as np

from jaxhand.data.images.encoded import EncodedImage


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled hand: millimetres in the OpenCV camera frame, RGB, integer pixel coordinates are pixel centres.

    Without `keypoints_2d` the 2D labels are the projection of `keypoints_3d`, valid as `joint_valid` is. A hand that is
    labelled in 2D only has `keypoints_2d` and `joint_valid_2d`, and `joint_valid` is 0.
    """

    image: np.ndarray | EncodedImage | None  # (H, W, 3) uint8; other types from `read_encoded`, `read_annotation`
    K: np.ndarray  # (3, 3)
    keypoints_3d: np.ndarray  # (21, 3) mm
    joint_valid: np.ndarray  # (21,) 1 where the joint is labelled
    hand: str  # "right" or "left"
    depth: np.ndarray | None = None  # (H, W) mm, 0 where unknown
    bbox: np.ndarray | None = None  # (4,) x0, y0, x1, y1 px
    vertices: np.ndarray | None = None  # (V, 3) mm
    mano_pose: np.ndarray | None = None  # (48,) axis-angle
    mano_shape: np.ndarray | None = None  # (10,)
    mesh: str = "mano"  # hand model of vertices, pose and shape: "mano" or "builtin", the built-in hand
    name: str = ""
    keypoints_2d: np.ndarray | None = None  # (21, 2) px of the image
    joint_valid_2d: np.ndarray | None = None  # (21,) required with keypoints_2d

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
    """Labelled hands by index, 0 to len - 1. The two cheaper ways to read a record are described above."""

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
        """Record `index` whose image is an `EncodedImage`, where the source supports that."""
        return dataclasses.replace(read_encoded(self._source, index), depth=None)

    def read_annotation(self, index: int) -> Record:
        """Record `index` without image and depth."""
        return dataclasses.replace(read_annotation(self._source, index), depth=None)


def read_annotation(source: Source, index: int) -> Record:
    """The labels of record `index`: no image is decoded if the source supports that."""
    return getattr(source, "read_annotation", source.__getitem__)(int(index))


def read_encoded(source: Source, index: int) -> Record:
    """Record `index` for cropping: its image is an `EncodedImage` if the source supports that."""
    return getattr(source, "read_encoded", source.__getitem__)(int(index))


def sample_joints(source: Source, max_records: int) -> tuple[np.ndarray, np.ndarray]:
    """Joints of records evenly spread over a source, left hands mirrored to right ones.

    Args:
        source: of records.
        max_records: at most this many are read. Those without a joint in 3D are left out, so N may be 0.

    Returns:
        (N, 21, 3) mm and (N, 21) valid, float32.
    """
    indices = np.unique(np.linspace(0, len(source) - 1, min(max_records, len(source))).astype(int))
    return stacked_joints([read_annotation(source, i) for i in indices])


def stacked_joints(records: list[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Joints of the records that have a joint in 3D, left hands mirrored: (N, 21, 3) mm and (N, 21) valid, float32."""
    records = [record for record in records if np.any(record.joint_valid)]
    mirror = np.array([[1 if record.hand == "right" else -1, 1, 1] for record in records], np.float32).reshape(-1, 1, 3)
    joints = np.array([record.keypoints_3d for record in records], np.float32).reshape(-1, 21, 3)
    return joints * mirror, np.array([record.joint_valid for record in records], np.float32).reshape(-1, 21)
