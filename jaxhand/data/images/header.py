"""Read the size and the EXIF orientation from the header of a JPEG or PNG file, without decoding the image."""

import struct
import typing

_FRAME_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # with the size


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
    """Return the EXIF orientation of a JPEG, 1 to 8; 1 (upright) for a JPEG without one."""
    for marker, offset in _segments(content):
        if marker == 0xE1 and content[offset + 2 : offset + 8] == b"Exif\0\0":
            tiff = content[offset + 8 : offset + int.from_bytes(content[offset : offset + 2], "big")]
            order = "<" if tiff.startswith(b"II") else ">"
            try:
                (first,) = struct.unpack_from(order + "I", tiff, 4)
                for entry in range(struct.unpack_from(order + "H", tiff, first)[0]):
                    tag, value = struct.unpack_from(order + "H6xH", tiff, first + 2 + 12 * entry)
                    if tag == 0x0112:
                        return value if 1 <= value <= 8 else 1
            except struct.error:  # an offset points beyond the header
                pass
            return 1
    return 1


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
