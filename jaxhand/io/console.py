"""The console: output that any encoding can show, paths with `~`, and a line where something takes long."""

import argparse
import codecs
import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.io import output_files

PATIENCE = 10.0  # seconds without output, after which a line is printed
_PLAIN = {"✓": "", "…": "...", "→": "->", "·": "-", "±": "+-", "≤": "<="}  # what an encoding may lack → its stand-in
_ERRORS = "jaxhand.plain"  # name of the error handler in `codecs`


def prepare() -> None:
    """Make stdout and stderr accept every character: one that their encoding lacks is replaced or left out.

    A stream that is closed is replaced by the null device, so that writing to it has no effect.
    """
    codecs.register_error(_ERRORS, _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure") and not (stream.encoding or "").lower().startswith("utf"):
            stream.reconfigure(errors=_ERRORS)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="surrogateescape"
            )  # bytes of a file's name that are not UTF-8 are printed as they are


def is_full_or_closed(error: OSError) -> bool:
    """Whether an error means that output cannot be written: its reader has ended, as after `| head`, or it is full."""
    return error.errno in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) and error.filename is None


def discard_stdout() -> None:
    """Replace stdout by the null device, so that a process whose stdout is full or closed can go on or end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def path(text: str) -> Path:
    """A path from the command line: `~` and `~user` at its start are replaced by the home folder.

    Raises:
        ArgumentTypeError: the text is empty, as that of a variable of the shell that is not set, or too long.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty, as from a variable that is not set; . is this folder")
    expanded = Path(os.path.expanduser(text))
    with contextlib.suppress(OSError):
        expanded.lstat()
        return expanded
    if any(len(os.fsencode(part)) > 255 for part in expanded.parts) or len(os.fsencode(expanded)) > 4095:
        raise argparse.ArgumentTypeError(f"the path {text[:40]}… is too long")
    return expanded


def output_path(text: str) -> Path:
    """A path of a file or folder to write, from the command line; as `path`.

    Raises:
        ArgumentTypeError: as for `path`, or the path is among the checkpoints of a run.
    """
    chosen = path(text)
    try:
        output_files.check_place(chosen)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return chosen


def output_file(*endings: str) -> Callable[[str], Path]:
    """The function for argparse that reads the path of a file to write, which must end in one of `endings`.

    So a file of another kind, such as an input, is not overwritten by mistake. The path is read as by `output_path`.
    """

    def read(text: str) -> Path:
        file = output_path(text)
        if file.suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"{text}: this file must end in {' or '.join(endings)}")
        return file

    return read


@contextlib.contextmanager
def patience(line: str) -> Iterator[None]:
    """Context manager that prints a line to stderr if its block takes longer than `PATIENCE`."""
    timer = threading.Timer(PATIENCE, lambda: print(line, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Error handler of `codecs`: the stand-ins for the characters that cannot be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text, end = error.object, error.end
    plain = "".join(_PLAIN.get(character, "?") for character in text[error.start : end])
    if not plain and text[end : end + 1] == " ":  # the space after a mark that is left out
        end += 1
    return plain, end
