"""Read YAML as mappings, lists and texts. The type of a config's field, not the look of a text, decides what it means.

YAML's own rules read `no` as False, `010` as 8, `1:30` as 90 and `2024-01-01` as a date. Here a plain text stays as it
is written, and `typed` converts it only where the field does not say its type.
"""

import re
import typing

import yaml

from jaxhand.config import limits
from jaxhand.config.errors import ConfigError

_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_NULL = ("", "~", "null", "Null", "NULL")
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class Plain(str):
    """A text without quotes, which may stand for a number or for true and false."""


def parse(text: str, source: str) -> typing.Any:
    """Read one YAML document.

    Args:
        text: the document.
        source: what it is called in error messages, such as "config PATH".

    Returns:
        Nested dicts and lists; their leaves are `Plain`, text from quotes, or None.

    Raises:
        ConfigError: the text is not YAML, is too long or nested too deeply, or has a key twice.
    """
    if len(text) > limits.YAML_CHARACTERS:
        raise ConfigError(f"{source} is too long for a config: {len(text):,} characters; is it another file?")
    try:
        node = yaml.compose(text, yaml.BaseLoader)
        return None if node is None else _Reader(source).read(node, ())
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {shortened(' '.join(str(error).split()), 300)}") from error
    except RecursionError:
        raise ConfigError(f"{source} is nested too deeply for a config") from None


def typed(value: typing.Any) -> typing.Any:
    """Convert each `Plain` in nested dicts and lists to a number, a bool or a text; numbers are decimal."""
    if isinstance(value, dict):
        return {str(key): typed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [typed(each) for each in value]
    if not isinstance(value, Plain):
        return value
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if value.lower() in _SPECIAL:
        return float(_SPECIAL[value.lower()])
    try:
        if _INTEGER.fullmatch(value):
            return int(value)
        if _FLOAT.fullmatch(value):
            return float(value)
    except ValueError:  # thousands of digits
        pass
    return str(value)


def shown(value: typing.Any) -> str:
    """A value for an error message, shortened."""
    return shortened(repr(typed(value)), 80)


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters; the middle of a longer one is replaced by dots."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


class _Reader:
    """Converts the nodes of a document; counts them, because an alias can repeat a large part many times."""

    def __init__(self, source: str):
        self._source, self._count = source, 0

    def read(self, node: yaml.Node, path: tuple[str, ...]) -> typing.Any:
        self._count += 1
        if self._count > limits.YAML_VALUES:
            raise ConfigError(
                f"{self._source} has more than {limits.YAML_VALUES:,} values after its aliases are replaced"
            )
        if node.tag not in _TAGS:
            raise self._error(node, f"the tag {shortened(node.tag, 60)} has no meaning in a config; remove it")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(each, path) for each in node.value]
        if getattr(node, "style", None) is not None:  # in quotes, or a block of text
            return node.value
        return None if node.value in _NULL else Plain(node.value)

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict:
        merged, own, lines = {}, {}, {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key must be a text")
            key, line = key_node.value, key_node.start_mark.line + 1
            here = (*path, key)
            if key in lines:
                name, two = shortened(".".join(here), 80), f"{lines[key]} and {line}"
                where = f"in lines {two}" if lines[key] != line else f"in line {line}"
                raise ConfigError(f"{self._source}: {name!r} is there twice, {where}; keep one of them")
            lines[key] = line
            if key == "<<" and key_node.style is None:
                parts = self.read(value_node, path)
                for part in reversed(parts if isinstance(parts, list) else [parts]):
                    if not isinstance(part, dict):
                        raise self._error(value_node, "<< must be followed by a section, such as *name")
                    merged |= part
            else:
                own[key] = self.read(value_node, here)
        return merged | own

    def _error(self, node: yaml.Node, fault: str) -> ConfigError:
        return ConfigError(f"{self._source}: line {node.start_mark.line + 1}: {fault}")
