"""Read size, EXIF orientation and focal length from the header of a JPEG or PNG file, without decoding the image."""

import math
import re
import struct
import typing

_FRAME_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # with the size
# Tags of EXIF 2.32
_ORIENTATION, _PHOTOGRAPH = 0x0112, 0x8769  # the second is the offset of the directory that has the others
_FOCAL_LENGTH, _FOCAL_LENGTH_35MM, _PIXEL_X_DIMENSION = 0x920A, 0xA405, 0xA002
_FOCAL_PLANE_X_RESOLUTION, _FOCAL_PLANE_UNIT = 0xA20E, 0xA210
_RESOLUTION_UNITS_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # inch, cm, mm, um
# AVIF: boxes with a quarter turn against the clock and with an axis of mirroring; EXIF data after an offset
_IROT = re.compile(rb"\0\0\0\x09irot(.)", re.DOTALL)
_IMIR = re.compile(rb"\0\0\0\x09imir(.)", re.DOTALL)
_AVIF_EXIF = re.compile(rb"\0\0\0[\0\6](?:Exif\0\0)?(II\*\0|MM\0\*)")
# Quarter turns → EXIF orientation without mirroring, then mirrored up to down, then left to right
_AVIF_ORIENTATIONS = ((1, 4, 2), (8, 5, 7), (3, 2, 4), (6, 7, 5))
_FILM_DIAGONAL_MM = math.hypot(36, 24)


def read_image_size(read: typing.Callable[[int], bytes], count: int) -> tuple[int, int] | None:
    """Return `image_size` of a file of `count` bytes. `read(n)` reads its next n bytes; often 4 kB are enough."""
    first = read(min(4096, count))
    return image_size(first) or image_size(first + read(count - len(first)))


def image_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height in px before EXIF orientation; None for other files than JPEG and PNG, or if cut off."""
    if content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) >= 24:
        return struct.unpack(">II", content[16:24])
    for marker, offset in _segments(content):
        if marker in _FRAME_MARKERS and offset + 7 <= len(content):
            height, width = struct.unpack(">HH", content[offset + 3 : offset + 7])
            return width, height
    return None


def first_rows(content: bytes, rows: int) -> bytes | None:
    """Change the height in the header of a JPEG to `rows`, so that a decoder stops after these rows.

    Returns:
        The new bytes; None for a progressive JPEG, whose passes cover all rows.
    """
    for marker, offset in _segments(content):
        if marker in (0xC0, 0xC1):
            return b"".join((content[: offset + 3], rows.to_bytes(2, "big"), content[offset + 5 :]))
    return None


def orientation(content: bytes) -> int:
    """Return the EXIF orientation of a JPEG, PNG, WebP or AVIF image, 1 to 8; 1 (upright) for an image without one.

    In an AVIF image, its own properties `irot` and `imir` come before EXIF data.
    """
    if content[4:8] == b"ftyp":
        turn, mirror = _IROT.search(content), _IMIR.search(content)
        if turn or mirror:
            return _AVIF_ORIENTATIONS[turn[1][0] & 3 if turn else 0][1 + (mirror[1][0] & 1) if mirror else 0]
    value = _exif(content).get(_ORIENTATION, 1)
    return int(value) if 1 <= value <= 8 else 1


def focal_length(content: bytes) -> float | None:
    """Return the focal length in px that the EXIF data of a JPEG state; None where they state none.

    The length that a film of 35 mm would need for the same view (`FocalLengthIn35mmFilm`) comes first: by CIPA's rule
    (DCG-001) the diagonals of film and image correspond. Otherwise it is `FocalLength` in mm times the sensor's pixels
    per mm (`FocalPlaneXResolution`), reduced as the image is smaller than the recorded one (`PixelXDimension`).
    """
    size, exif = image_size(content), _exif(content)
    if size is None or not content.startswith(b"\xff\xd8"):
        return None
    if exif.get(_FOCAL_LENGTH_35MM, 0) > 0:
        return exif[_FOCAL_LENGTH_35MM] * math.hypot(*size) / _FILM_DIAGONAL_MM
    unit = _RESOLUTION_UNITS_MM.get(int(exif.get(_FOCAL_PLANE_UNIT, 2)))
    focal, resolution = exif.get(_FOCAL_LENGTH, 0), exif.get(_FOCAL_PLANE_X_RESOLUTION, 0)
    if unit is None or focal <= 0 or resolution <= 0:
        return None
    recorded = exif.get(_PIXEL_X_DIMENSION, 0)
    return focal * resolution / unit * (size[0] / recorded if recorded > 0 else 1)


def _exif(content: bytes) -> dict[int, float]:
    """The numbers of an image's EXIF data by tag, of their first directory and of the one about the photograph."""
    tiff = _exif_block(content)
    order = "<" if tiff.startswith(b"II") else ">"
    found = tiff_numbers(tiff, order, int.from_bytes(tiff[4:8], "little" if order == "<" else "big"))
    return tiff_numbers(tiff, order, int(found.get(_PHOTOGRAPH, len(tiff)))) | found


def _exif_block(content: bytes) -> bytes:
    """The EXIF data of a JPEG, PNG, WebP or AVIF image, which have the form of a TIFF file; empty without them."""
    if content.startswith(b"\xff\xd8"):
        for marker, offset in _segments(content):
            if marker == 0xE1 and content[offset + 2 : offset + 8] == b"Exif\0\0":
                return content[offset + 8 : offset + int.from_bytes(content[offset : offset + 2], "big")]
    elif content.startswith(b"\x89PNG"):
        return _chunk(content, 8, b"eXIf", ">")
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _chunk(content, 12, b"EXIF", "<").removeprefix(b"Exif\0\0")
    elif content[4:8] == b"ftyp" and (found := _AVIF_EXIF.search(content)):
        return content[found.start(1) : found.start(1) + 2**16]
    return b""


def _chunk(content: bytes, at: int, name: bytes, order: str) -> bytes:
    """The content of the chunk `name` of a PNG (`order` is ">") or WebP file ("<"), whose chunks start at byte `at`."""
    while at + 8 <= len(content):
        if order == ">":
            length, found = struct.unpack_from(">I4s", content, at)
            step = 12 + length  # a checksum follows
        else:
            found, length = struct.unpack_from("<4sI", content, at)
            step = 8 + length + length % 2
        if found == name:
            return content[at + 8 : at + 8 + length]
        at += step
    return b""


def tiff_numbers(tiff: bytes, order: str, start: int) -> dict[int, float]:
    """Return the numbers by tag of the TIFF directory at byte `start`, up to the first entry that is damaged.

    Args:
        tiff: a TIFF file, or EXIF data.
        order: "<" or ">", the byte order.
        start: offset of the directory, bytes.
    """
    found = {}
    try:
        for entry in range(struct.unpack_from(order + "H", tiff, start)[0]):
            at = start + 2 + 12 * entry
            tag, kind = struct.unpack_from(order + "HH", tiff, at)
            if kind in (3, 4):  # 16 or 32 bits
                found[tag] = struct.unpack_from(order + "H" if kind == 3 else order + "I", tiff, at + 8)[0]
            elif kind == 5:  # a fraction, which lies elsewhere
                (place,) = struct.unpack_from(order + "I", tiff, at + 8)
                numerator, denominator = struct.unpack_from(order + "II", tiff, place)
                found[tag] = numerator / denominator if denominator else 0
    except struct.error:  # an offset points beyond the header
        pass
    return found


def _segments(content: bytes) -> typing.Iterator[tuple[int, int]]:
    """Yield each marker of a JPEG's header with the offset of the length field after it."""
    offset = 2 if content.startswith(b"\xff\xd8") else len(content)
    while offset + 4 <= len(content) and content[offset] == 0xFF:
        marker = content[offset + 1]
        if marker == 0xFF:  # padding before a marker
            offset += 1
            continue
        yield marker, offset + 2
        if marker == 0xDA:  # the pixels follow
            return
        offset += 2 + int.from_bytes(content[offset + 2 : offset + 4], "big")
