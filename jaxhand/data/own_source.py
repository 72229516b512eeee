"""A data set from outside the package: what its code raises or returns in a wrong form becomes one line."""

import functools
import typing
from collections.abc import Callable
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.data.checks import check_form
from jaxhand.data.mix import Mix
from jaxhand.data.record import Record, Source
from jaxhand.io import plugins


def load(function: Callable, path: Path, split: str, *, name: str, **options) -> Source:
    """Open a data set with a user's function, and check what it returns.

    Args:
        function: the user's function.
        path, split: its arguments.
        name: name of the data set in errors.
        options: its keyword arguments.

    Raises:
        UserError: the function fails, or does not return a source.
    """
    source = plugins.call(name, function, path, split, **options)
    if isinstance(source, type) or not isinstance(source, Source):
        found = f"the class {source.__name__}" if isinstance(source, type) else type(source).__name__
        raise UserError(f"{name}: must return a source (__len__, __getitem__), got {found}")
    return source if isinstance(source, Mix) else OwnSource(source, name)


class OwnSource:
    """A user's source. Each record is checked, and each error names the data set and the record.

    What a source may have in addition, such as `read_annotation`, is that of the user's source.

    Args:
        source: the user's source.
        name: name of the data set in errors.

    Raises:
        UserError: the number of records cannot be read.
    """

    def __init__(self, source: Source, name: str):
        self._source, self.name = source, name
        self._count = plugins.call(f"{name}: len()", len, source)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        return self._read(self._source.__getitem__, index)

    def __reduce__(self) -> tuple:
        return OwnSource, (self._source, self.name)  # for pickle, which would ask `__getattr__` before `_source` is set

    def __getattr__(self, attribute: str) -> typing.Any:
        value = getattr(self._source, attribute)
        if attribute in ("read_annotation", "read_encoded"):
            return functools.partial(self._read, value, needs_image=attribute == "read_encoded")
        return functools.partial(plugins.call, f"{self.name}: {attribute}()", value) if callable(value) else value

    def _read(self, function: Callable, index: int, *, needs_image: bool = True) -> Record:
        if not -self._count <= index < self._count:
            raise IndexError(f"{self.name}: no record {index}; there are {self._count}")  # ends a loop over the source
        where = f"{self.name}: record {index}"
        record = plugins.call(where, function, index)
        check_form(record, where)
        if needs_image and record.image is None:
            raise UserError(f"{where}: has no image")
        return record
