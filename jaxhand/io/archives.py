"""Zip archives of any origin: the size of what is unpacked is limited before it is unpacked."""

import struct
import typing
import zipfile
import zlib

from jaxhand.config import limits

# What `zipfile` raises for a damaged, encrypted or unusual archive.
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError),  # also NotImplementedError
    *(ValueError, LookupError, OverflowError),
)


class Archive(zipfile.ZipFile):
    """An archive that is read. `open_member` limits the total size of all members that are opened.

    Args:
        file: the path or the opened file.
    """

    def __init__(self, file):
        super().__init__(file)
        self._left = limits.unpacked(self.start_dir)

    def open_member(self, info: zipfile.ZipInfo) -> typing.IO[bytes]:
        """Open a member to read its bytes.

        Raises:
            zipfile.BadZipFile: the member has an unusual compression, or the members are too large together.
        """
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"compression method {info.compress_type} is not read, only deflate")
        self._left -= info.file_size
        if self._left < 0:
            most = limits.unpacked(self.start_dir) / 1e6
            raise zipfile.BadZipFile(f"unpacks to more than {most:,.0f} MB, too much for an archive of this size")
        return self.open(info)
