"""The labels of some records of a data set as arrays, to check them. No image is decoded, only headers are read."""

import typing

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.checks import check_depth, check_form
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.record import Record, Source, read_annotation, read_encoded, spread
from jaxhand.hand.camera import project

MAX_RECORDS = 2000  # largest number of labels that are read
MAX_DECODED = 100  # the same for a source without `read_annotation`, which may decode an image per label
MAX_IMAGES = 64  # largest number of images whose header is read


class Header(typing.NamedTuple):
    """What the header of an image says."""

    size: tuple[int, int]  # width and height, px, upright by EXIF
    orientation: int  # EXIF orientation, 1 to 8; 1 without EXIF


class Sample(typing.NamedTuple):
    """The labels of n records."""

    names: list[str]
    K: np.ndarray  # (n, 3, 3) px
    joints: np.ndarray  # (n, 21, 3) mm
    valid: np.ndarray  # (n, 21) bool, joints that are labelled in 3D
    points: np.ndarray  # (n, 21, 2) px, the 2D labels, or the projected joints of a record without 2D labels
    valid_2d: np.ndarray  # (n, 21) bool
    own_2d: np.ndarray  # (n,) bool, records with 2D labels of their own
    boxes: np.ndarray  # (n, 4) px, NaN without a box
    boxed: np.ndarray  # (n,) bool, records with a box
    left: np.ndarray  # (n,) bool
    sizes: np.ndarray  # (n, 2) width and height of the image, px, upright by EXIF; NaN if unknown
    orientation: np.ndarray  # (n,) EXIF orientation of the image; 1 if unknown

    @classmethod
    def of(cls, records: typing.Sequence[Record], headers: dict[int, Header]) -> "Sample":
        """Stack the labels of records.

        Args:
            records: the records, at least one.
            headers: index of a record → the header of its image. If all these images have one size and are upright,
                all records are assumed to have this size.
        """
        K = np.array([record.K for record in records], np.float64)
        joints = np.array([record.keypoints_3d for record in records], np.float64)
        valid = np.array([record.joint_valid for record in records]) > 0
        with np.errstate(all="ignore"):
            points = project(np.where(valid[..., None], joints, (0, 0, 1)), K)
        own_2d = np.array([record.keypoints_2d is not None for record in records])
        valid_2d = valid.copy()
        for i, record in enumerate(records):
            if record.keypoints_2d is not None:
                points[i], valid_2d[i] = record.keypoints_2d, np.asarray(record.joint_valid_2d) > 0
        boxed = np.array([record.bbox is not None for record in records])
        boxes = np.array([np.full(4, np.nan) if record.bbox is None else record.bbox for record in records], np.float64)
        sizes, orientation = np.full((len(records), 2), np.nan), np.ones(len(records), int)
        if len(set(headers.values())) == 1:
            [only] = set(headers.values())
            sizes[:] = only.size if only.orientation == 1 else np.nan
        for i, header in headers.items():
            sizes[i], orientation[i] = header
        left = np.array([record.hand == "left" for record in records])
        names = [record.name or f"record {i}" for i, record in enumerate(records)]
        return cls(names, K, joints, valid, points, valid_2d, own_2d, boxes, boxed, left, sizes, orientation)


def read(source: Source) -> Sample:
    """Read the labels of records that are evenly spread over a source, and the headers of some of their images.

    Raises:
        UserError: there are no records, a label cannot be read, or it has another form than `Record` describes.
    """
    if not len(source):
        raise UserError("a data set contains no records")
    rows = spread(len(source), MAX_RECORDS if hasattr(source, "read_annotation") else MAX_DECODED)
    records = [read_annotation(source, i) for i in rows]
    name = getattr(source, "name", type(source).__name__)
    for i, record in zip(rows, records):
        check_form(record, f"record {i} of {name}")
        check_depth(record, f"record {i} of {name}")
    headers = {int(k): header(source, int(rows[k])) for k in spread(len(rows), MAX_IMAGES)}
    return Sample.of(records, {k: v for k, v in headers.items() if v is not None})


def header(source: Source, i: int) -> Header | None:
    """Read the header of the image of record i; None if the image cannot be read."""
    try:
        image = read_encoded(source, i).image
        if isinstance(image, EncodedImage):
            return Header(image.header_size, image.exif_orientation)
    except UserError:
        return None
    return None if image is None else Header((image.shape[1], image.shape[0]), 1)
