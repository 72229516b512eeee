"""Where a command may write: not over a file of another program, and not among the checkpoints of a run.

A file that can be replaced contains a mark, from which the command that wrote it recognises it. Where the format has no
place for a mark, the earlier file is renamed.
"""

import itertools
import mmap
import os
import struct
import zlib
from pathlib import Path

from jaxhand.config import UserError

_PNG_HEAD = 33  # bytes: signature and header
_JPEG_HEAD = 20  # bytes: start of the image and JFIF header, as OpenCV writes them


def run_around(path: Path) -> Path | None:
    """The run folder whose checkpoints a path is, or is among; None for any other path. Links are followed, too."""
    for place in map(Path, (os.path.abspath(path), os.path.realpath(path))):
        for each in (place, *place.parents):
            if each.name == "checkpoints" and any(step.name.isdecimal() for step in each.glob("[0-9]*")):
                return each.parent
    return None


def check_place(path: Path) -> None:
    """Raise a UserError if a file or folder to write is among the checkpoints of a run."""
    if around := run_around(path):
        raise UserError(
            f"{path}: is among the checkpoints of the run {around}, which deletes old ones; choose another folder"
        )


def check_own(file: Path, mark: bytes, *others: Path) -> None:
    """Check that files can be replaced: they do not exist, or the command wrote them. An empty file can be replaced.

    Args:
        file: a file that contains `mark` if the command wrote it.
        mark: bytes that files of other programs do not contain.
        others: files without a mark, which the command writes together with `file`.

    Raises:
        UserError: a file exists, but `file` does not exist or does not contain the mark.
    """
    if file.is_file() and (not file.stat().st_size or _contains(file, mark)):
        return
    found = [each for each in (file, *others) if each.is_file() and each.stat().st_size]
    if found:
        raise UserError(
            f"{found[0]}: exists, was not written by this command, and would be replaced; move it away, "
            "or choose another place"
        )


def keep_aside(path: Path) -> Path | None:
    """Rename a file or folder to NAME.before.SUFFIX, or NAME.before-2.SUFFIX and so on, so that nothing replaces it.

    Returns:
        The new path, or None if there is no such file or folder, or it is empty.
    """
    if not (any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size):
        return None
    endings = itertools.chain([".before"], (f".before-{number}" for number in itertools.count(2)))
    names = (path.with_name(f"{path.stem}{ending}{path.suffix}") for ending in endings)
    return path.rename(next(name for name in names if not os.path.lexists(name)))


def marked_png(content: bytes, mark: bytes) -> bytes:
    """Add a mark to a PNG file, as the text "Software" of the PNG standard."""
    chunk = b"tEXtSoftware\0" + mark
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:_PNG_HEAD] + chunk + content[_PNG_HEAD:]


def marked_jpeg(content: bytes, mark: bytes) -> bytes:
    """Add a mark to a JPEG file of OpenCV, as a comment."""
    comment = b"\xff\xfe" + struct.pack(">H", len(mark) + 2) + mark
    return content[:_JPEG_HEAD] + comment + content[_JPEG_HEAD:]


def _contains(file: Path, mark: bytes) -> bool:
    """Whether a file that is not empty contains the mark. One that cannot be read is not ours."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(mark) >= 0
    except OSError:
        return False
