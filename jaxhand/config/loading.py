"""Read a config: defaults, then a YAML file, then dotted overrides such as `training.num_epochs=5`.

An error message is one line that names the key. For an unknown key, the message also suggests a similar known key.
"""

import dataclasses
import difflib
import math
import types
import typing
from pathlib import Path

import yaml

from jaxhand.config import experiments, yaml_text
from jaxhand.config.errors import ConfigError
from jaxhand.config.ranges import Range
from jaxhand.config.schema import Config
from jaxhand.config.yaml_text import shown

LARGEST_IN_MODEL = 2**16  # of any number of a model; XLA ends the process if an array has more than 2^63 elements


def load(path: str | Path | None = None, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a config: the defaults, then the YAML file, then the overrides.

    Args:
        path: a YAML file with the keys that differ from the defaults, or the name of a file in configs/ such as
            "quickstart"; None: all keys have their defaults.
        overrides: texts `section.key=value`, such as "training.num_epochs=5". The value of a text key is taken as it is
            typed; for other keys it is read as YAML.

    Returns:
        The config, checked.

    Raises:
        ConfigError: the file is missing or is not YAML, a key is unknown, or a value has the wrong type, is
            outside its range, or is not one of the choices.
    """
    tree = _read_yaml(experiments.find(path)) if path is not None else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"override {override!r} must have the form key=value, such as training.num_epochs=5")
        keys = key.strip().split(".")
        _put(tree, keys, _override_value(text, keys))
    config = from_dict(tree, source=str(path) if path is not None else "config")
    _check(config)
    return config


def from_dict(tree: dict, source: str = "config") -> Config:
    """Build a `Config` from nested dicts.

    Args:
        tree: nested dicts as returned by `to_dict`; missing keys get their defaults.
        source: name of the dicts in error messages, such as the path of their file.

    Returns:
        The config. Ranges and choices are not checked: `load` does that.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type.
    """
    return _build(Config, tree, (), source)


def build_section(cls: type, tree: dict, name: str):
    """Build a dataclass that is not in `Config`, such as the options of a model, from nested dicts.

    Args:
        cls: the dataclass.
        tree: keys and values as read from YAML.
        name: dotted key of the section, for errors.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type.
    """
    return _build(cls, tree, tuple(name.split(".")), "config")


def to_dict(config: Config) -> dict:
    """Convert the config to nested dicts of text, numbers and lists, for YAML or JSON."""
    plain = lambda items: {key: list(value) if isinstance(value, tuple) else value for key, value in items}  # noqa: E731
    return dataclasses.asdict(config, dict_factory=plain)


def dump(config: Config) -> str:
    """The config as YAML text with every key."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def differences(old: Config, new: Config) -> list[str]:
    """The keys whose values differ, one text per key: `training.batch_size: 64 -> 32`."""
    before, after = _flat(old), _flat(new)
    return [f"{key}: {before[key]} -> {after[key]}" for key in after if before[key] != after[key]]


def _flat(section, prefix: str = "") -> dict:
    """The fields of a config section and its subsections: dotted key → value."""
    flat = {}
    for key, value in vars(section).items():
        flat |= _flat(value, f"{prefix}{key}.") if dataclasses.is_dataclass(value) else {prefix + key: value}
    return flat


def _read_yaml(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or a path that no file can have
        raise ConfigError(f"config {path} is not valid YAML: {error}") from error
    tree = yaml_text.parse(text, f"config {path}") or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config {path} must have keys and values, got a {type(yaml_text.typed(tree)).__name__}")
    return tree


def _override_value(text: str, keys: list[str]):
    """The value of an override. A text field takes the text as typed, except quotes and {…}, which are YAML."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if _is_text(keys) and not quoted and not text.lstrip().startswith(("{", "[")):
        return "" if text in ("null", "~") else text
    try:
        return yaml_text.parse(text, f"override {'.'.join(keys)}") if text else ""
    except ConfigError as error:
        if isinstance(error.__cause__, yaml.YAMLError):
            return text
        raise


def _is_text(keys: list[str]) -> bool:
    """Whether the field with this dotted key is a text, or a text or a mapping."""
    kind: typing.Any = Config
    for key in keys:
        kind = typing.get_type_hints(kind).get(key) if dataclasses.is_dataclass(kind) else None
    return kind is str or isinstance(kind, types.UnionType)


def _put(tree: dict, keys: list[str], value) -> None:
    """Set a value in nested dicts; missing inner dicts are created."""
    for key in keys[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[keys[-1]] = value


def _build(cls, tree, path: tuple, source: str):
    """Build a dataclass of the schema from nested dicts; `path` is its dotted key, split at the dots."""
    name = ".".join(path)
    if not isinstance(tree, dict):
        example = f"{name}.{dataclasses.fields(cls)[0].name}"
        raise ConfigError(f"{source}: {name!r} is a section and must have keys, such as {example}, got {shown(tree)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    values = {}
    for key, value in tree.items():
        here = ".".join((*path, str(key)))
        if key not in fields:
            name = yaml_text.shortened(here, 80)
            raise ConfigError(f"{source}: unknown key {name!r}.{_nearest(str(key)[:80], path, fields)}")
        kind = fields[key]
        values[key] = (
            _build(kind, value, (*path, key), source)
            if dataclasses.is_dataclass(kind)
            else _coerce(value, kind, here, source)
        )
    try:
        return cls(**values)
    except TypeError as error:  # a field without a default is missing; only model options have such fields
        raise ConfigError(f"{source}: {name}: {error}") from None


def _nearest(key: str, path: tuple, fields: dict) -> str:
    """A suggestion for a mistyped or abbreviated key: a similar key of the same section, else of any section."""
    siblings = {name: ".".join((*path, name)) for name in fields}
    elsewhere = {name.rpartition(".")[2]: name for name in _flat(Config())}
    for known in (siblings, elsewhere):
        initials = [name for name in known if "".join(word[0] for word in name.split("_")) == key]  # lr → learning_rate
        close = initials or difflib.get_close_matches(key, known, n=1)
        if close:
            return f" Did you mean {known[close[0]]!r}?"
    return f" Known keys: {', '.join(fields)}."


def _coerce(value, kind, here: str, source: str) -> typing.Any:
    """Convert a value to the type of its field. Values of YAML are texts, those of JSON have types of their own."""
    if kind == tuple[int, int] | None:  # first and last step
        return _interval(yaml_text.typed(value), here, source)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is dict:  # text, or {name: weight}
        if isinstance(value, dict):
            return {name: _weight(weight, name, here, source) for name, weight in value.items()}
        kind = str if isinstance(kind, types.UnionType) else kind
    if kind == tuple[str, ...] and isinstance(value, (str, list)):
        return tuple(map(str, [value] if isinstance(value, str) else value))
    if kind is str and not isinstance(value, (dict, list)):
        return "" if value is None else str(value)
    value = yaml_text.typed(value)
    try:
        if kind is float and not isinstance(value, bool):
            return float(value)
        if kind is int and not isinstance(value, bool):
            return _whole(value)
        if kind is bool and isinstance(value, bool):
            return value
        if kind is dict and isinstance(value, dict):
            return value
        if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)) and value and min(value) >= 1:
            return tuple(_coerce(number, int, here, source) for number in value)
    except (TypeError, ValueError, OverflowError):
        pass
    forms = {
        tuple[str, ...]: "a list of names",
        dict[str, float]: "names with weights such as {module:name: 0.5}",
        dict: "a mapping such as {width: 64}",
    }
    numbers = "a list of numbers such as [64, 32]" if typing.get_origin(kind) is tuple else kind.__name__
    wanted = forms.get(kind, numbers)
    raise ConfigError(f"{source}: {here} must be {wanted}, got {shown(value)}")


def _interval(value, here: str, source: str) -> tuple[int, int] | None:
    """Two whole numbers from 1, the first below the second, or nothing."""
    if value is None or value == "":
        return None
    try:
        first, last = map(_whole, value if isinstance(value, (list, tuple)) else ())
    except (TypeError, ValueError, OverflowError):
        first, last = 0, 0
    if not 1 <= first < last:
        wanted = "the first and the last step, such as [100, 110]"
        raise ConfigError(f"{source}: {here} must be {wanted}, got {shown(value)}")
    return first, last


def _whole(value) -> int:
    """A whole number, from an int, or from another number or a text without a fraction, such as 1e3."""
    try:
        number = int(value)
    except ValueError:
        number = int(float(value))
    if number != (value if isinstance(value, (int, float)) else float(value)):
        raise ValueError("has a fraction")
    return number


def _weight(value, name: str, here: str, source: str) -> float:
    """The number after a name, such as the weight of a data set in a mixture."""
    if value is None:
        raise ConfigError(
            f"{source}: {here}: there is nothing after {name!r}; write the weight, or for a single data set its path "
            "directly after the colon, NAME:PATH"
        )
    return _coerce(value, float, f"{here}: {name}", source)


def _check(config: Config) -> None:
    """Raise ConfigError if a value is outside its range, or if there is no data set or loss to train on."""
    values, ranges = _flat(config), _metadata("range", Config)
    for key, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            allowed = ranges.get(key, Range())
            if value not in allowed:
                raise ConfigError(f"{key} must be {allowed}, got {shown(value)}")
            if key.startswith("model.") and value > LARGEST_IN_MODEL:
                raise ConfigError(f"{key} must be at most {LARGEST_IN_MODEL:,}, got {shown(value)}")
    if not -(2**63) <= config.seed < 2**63:
        raise ConfigError(f"seed must fit in 64 bits, got {shown(config.seed)}")
    if config.training.average_with_init and not config.training.init_from:
        raise ConfigError("training.average_with_init needs a start: set training.init_from=RUN")
    if config.training.average_with_init and config.training.ema:
        raise ConfigError("training.average_with_init and training.ema are two ways to average: set one of them to 0")
    if config.training.mesh.fsdp > 1 and config.training.sharding != "fsdp":
        raise ConfigError("training.mesh.fsdp is for training.sharding=fsdp: set both")
    if isinstance(config.data.train, dict):
        if not config.data.train:
            raise ConfigError("data.train: contains no data set; write one line per set: NAME:PATH: weight")
        for name, weight in config.data.train.items():
            if not 0 < weight < math.inf:
                raise ConfigError(f"data.train: the weight of {name} must be positive and finite, got {weight}")
    for name, weight in config.loss.extra.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"loss.extra: the weight of {name} must be at least 0 and finite, got {weight}")
    for pattern, factor in config.optimizer.rates.items():
        if not 0 <= factor < math.inf:
            raise ConfigError(f"optimizer.rates: the factor of {pattern} must be at least 0 and finite, got {factor}")
    weights = [*vars(config.loss).values(), *config.loss.extra.values()]
    if not any(isinstance(weight, float) and weight for weight in weights):
        raise ConfigError("loss: all weights are 0, so nothing would be learned; set at least one weight above 0")
    for key, known in choices().items():
        if values[key] not in known:
            listed = ", ".join(choice or '""' for choice in known)
            raise ConfigError(f"{key} must be one of {listed}, got {shown(values[key])}")


def choices(cls: type = Config, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """The keys whose value must be one of a few texts: dotted key → allowed texts.

    Args:
        cls: a dataclass of the schema.
        prefix: text before the field names, such as "data.".
    """
    return _metadata("choices", cls, prefix)


def _metadata(name: str, cls: type, prefix: str = "") -> dict[str, typing.Any]:
    """The metadata with this name of all fields that have it: dotted key → metadata."""
    found = {}
    for field in dataclasses.fields(cls):
        key = prefix + field.name
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found |= _metadata(name, field.type, f"{key}.")
        elif name in field.metadata:
            found[key] = field.metadata[name]
    return found
