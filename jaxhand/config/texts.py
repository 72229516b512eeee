"""Parse JSON and YAML of any origin: text that is nested too deeply or that expands too far is refused in one line."""

import json
import typing

import orjson
import yaml

from jaxhand.config import limits


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


class _Loader(yaml.SafeLoader):
    """The loader that `parse_yaml` uses: numbers of more than 64 bits are floats."""


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    value = yaml.SafeLoader.construct_yaml_int(loader, node)
    return value if -(2**63) <= value < 2**63 else float(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str) -> typing.Any:
    """Parse YAML.

    Returns:
        The value; None for an empty text.

    Raises:
        ValueError: the text is not YAML, is too large, is nested too deeply, has a key twice, or expands to too many
            values by its aliases; the message is one line.
    """
    if len(text) > limits.YAML_BYTES:
        raise ValueError(f"has {len(text):,} characters, but at most {limits.YAML_BYTES:,} are read")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > limits.YAML_VALUES:
            raise ValueError(f"expands to more than {limits.YAML_VALUES:,} values")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError) as error:
        # PyYAML's own conversions of dates and numbers raise other errors than YAMLError
        raise ValueError(" ".join(str(error).split())[:300] or "a value does not fit its tag") from None


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Number of values in a node, when every alias is counted as a copy. `counts` maps ids of finished nodes to it."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = limits.YAML_VALUES  # an alias inside its own node expands for ever
        children = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [child for pair in node.value for child in pair]
        counts[id(node)] = 1 + sum(_count(child, counts) for child in children)
        counts[id(node)] = min(counts[id(node)], limits.YAML_VALUES + 1)  # not a number of many digits
    return counts[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    """Raise ValueError if a mapping has a key twice: YAML would silently drop the first value."""
    lines = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ValueError(f"{key.value!r} is in line {lines[key.value]} and again in line {line}; keep one")
            lines[key.value] = line
