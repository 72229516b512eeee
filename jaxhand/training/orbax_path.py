"""The path of a checkpoint folder, as Orbax and TensorStore need it."""

import glob
from collections.abc import Iterator
from pathlib import Path

from etils.epath.gpath import PosixGPath

_READ_AS_SOMETHING_ELSE = ("\\", "gs:/", "s3:/")


class LiteralPath(PosixGPath):
    """A path whose own characters are never a pattern. In `runs/a[1]`, Orbax would not find the files to merge."""

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        """Paths in this folder that match a pattern."""
        return (self / name for name in glob.glob(pattern, root_dir=str(self)))


def wrong_in(folder: Path) -> str | None:
    """The first part of a path that Orbax or TensorStore reads as something else; None if there is none."""
    return next((text for text in _READ_AS_SOMETHING_ELSE if text in str(folder)), None)
