"""Parse JSON of any origin: text that is nested too deeply is refused in one line."""

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


def _parse_int(digits: str) -> int | float:
    return float(digits) if len(digits) > 19 else int(digits)
