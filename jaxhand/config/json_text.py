"""Parse JSON of any origin: text that is nested too deeply is refused in one line."""

import collections
import json
import typing

import orjson


def parse_json(text: str | bytes) -> typing.Any:
    """Parse JSON. NaN and Infinity are allowed, and so is a byte order mark.

    Args:
        text: the JSON text. Bytes are UTF-8, UTF-16 or UTF-32.

    Returns:
        The value. Whole numbers that need more than 64 bits are floats.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply; the message is one line.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # the parser below is slower, but accepts more
        pass
    text = text.removeprefix("\ufeff") if isinstance(text, str) else text
    try:
        return json.loads(text, parse_int=_parse_int)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_json_once(text: str) -> typing.Any:
    """Parse JSON as `parse_json` does; a key that occurs twice in an object is an error.

    For files that people write: which of the two values is meant is not known.

    Args:
        text: the JSON text.

    Raises:
        ValueError: as for `parse_json`, or a key occurs twice; the message names the key.
    """
    value = parse_json(text)
    once = isinstance(value, dict) and all(text.count(f'"{key}"') == 1 for key in value)  # the usual case, quickly
    if not once:
        try:
            json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_check_keys, parse_int=_parse_int)
        except RecursionError:
            raise ValueError("nested too deeply") from None
    return value


def _check_keys(pairs: list[tuple[str, typing.Any]]) -> None:
    """Raise ValueError if a key of an object occurs twice."""
    key, count = max(collections.Counter(key for key, _ in pairs).items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise ValueError(f"the key {ascii(key)[:60]} occurs twice in an object")


def _parse_int(digits: str) -> int | float:
    return float(digits) if len(digits) > 19 else int(digits)
