"""Read the entries of large JSON files one by one. Only a few MB of a file are in memory at any time."""

import json
import re
import typing
from pathlib import Path

from jaxhand.config import UserError, limits
from jaxhand.io import files

_PIECE = 2**22  # number of characters that are read at once


def entries(file: Path, key: str) -> typing.Iterator[dict]:
    """Yield the objects of the first list named `key` in a JSON file.

    Raises:
        UserError: the file cannot be read, has no such list, or ends inside the list; the message names the file.
    """
    try:
        with file.open(encoding="utf-8") as content:
            yield from _entries(content, re.compile(rf'"{key}"\s*:\s*\['), file, key)
    except OSError as error:
        raise files.unreadable(file, error) from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text; download the file again") from None


def _entries(content: typing.TextIO, start: re.Pattern, file: Path, key: str) -> typing.Iterator[dict]:
    text = content.read(_PIECE)
    while not (found := start.search(text)):
        more = content.read(_PIECE)
        if not more:
            raise UserError(f"{file}: has no list {key!r}; give another file, or download this file again")
        text = text[-len(key) - 64 :] + more
    position, count, decode = found.end(), 0, json.JSONDecoder().raw_decode
    separators = re.compile(r"[\s,]*")
    while True:
        skipped = separators.match(text, position)
        assert skipped is not None, "the pattern also matches nothing"
        position = skipped.end()
        if text.startswith("]", position):
            return
        try:
            entry, position = decode(text, position)
        except RecursionError:
            raise UserError(f"{file}: entry {count} of {key} is nested too deeply") from None
        except ValueError:
            if len(text) - position > limits.JSON_ENTRY:
                size = f"has more than {limits.JSON_ENTRY:,} characters"
                raise UserError(
                    f"{file}: entry {count} of {key} is damaged or {size}; download the file again"
                ) from None
            more = content.read(_PIECE)
            if not more:
                raise UserError(f"{file}: cut off or damaged after {count} {key}; download the file again") from None
            text, position = text[position:] + more, 0
            continue
        if not isinstance(entry, dict):
            raise UserError(f"{file}: entry {count} of {key} is not a JSON object; download the file again")
        yield entry
        count += 1
