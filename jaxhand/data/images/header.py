"""What the first bytes of a JPEG or PNG image say, without decoding it: its size, and how it is to be turned."""

import struct
import typing

_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # JPEG markers that hold it


def size_from(read: typing.Callable[[int], bytes], count: int) -> tuple[int, int] | None:
    """As `image_size` of the `count` bytes that `read` gives: a few kB do unless much stands before the image."""
    first = read(min(4096, count))
    return image_size(first) or image_size(first + read(count - len(first)))


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height in px as stored (not turned by EXIF), or None if this is no JPEG or PNG or ends too early."""
    if content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) >= 24:
        return struct.unpack(">II", content[16:24])
    for marker, at in _segments(content):
        if marker in _FRAMES and at + 7 <= len(content):
            height, width = struct.unpack(">HH", content[at + 3 : at + 7])
            return width, height
    return None


def first_rows(content: bytes, rows: int) -> bytes | None:
    """A JPEG that claims to end after `rows` rows, so that a decoder stops there.

    None for a progressive one, whose passes each go over the whole image.
    """
    for marker, at in _segments(content):
        if marker in (0xC0, 0xC1):
            return b"".join((content[: at + 3], rows.to_bytes(2, "big"), content[at + 5 :]))
    return None


def orientation(content: bytes) -> int:
    """How EXIF says that a JPEG is to be turned: 1 to 8, 1 (not at all) where it says nothing."""
    for marker, at in _segments(content):
        if marker == 0xE1 and content[at + 2 : at + 8] == b"Exif\0\0":
            tiff = content[at + 8 : at + int.from_bytes(content[at : at + 2], "big")]
            order = "<" if tiff.startswith(b"II") else ">"
            try:
                (first,) = struct.unpack_from(order + "I", tiff, 4)
                for entry in range(struct.unpack_from(order + "H", tiff, first)[0]):
                    tag, value = struct.unpack_from(order + "H6xH", tiff, first + 2 + 12 * entry)
                    if tag == 0x0112:
                        return value if 1 <= value <= 8 else 1
            except struct.error:  # it points out of the header
                pass
            return 1
    return 1


def _segments(content: bytes) -> typing.Iterator[tuple[int, int]]:
    """The markers of a JPEG's header and where the length after each is."""
    at = 2 if content.startswith(b"\xff\xd8") else len(content)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # may fill the space before a marker
            at += 1
            continue
        yield marker, at + 2
        if marker == 0xDA:  # the pixels follow
            return
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
