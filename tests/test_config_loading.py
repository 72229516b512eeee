"""Configs: what a file and an override may set, and the message for each mistake."""

import dataclasses
import math
from pathlib import Path

import pytest
import yaml

from jaxhand import config as configs
from jaxhand.config import Config, ConfigError, load


def message(*overrides, path=None) -> str:
    with pytest.raises(ConfigError) as error:
        load(path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(tmp_path, text):
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    return path


def test_file_over_defaults_and_overrides_over_file(tmp_path):
    path = write(tmp_path, "training: {num_epochs: 7, batch_size: 16}\noptimizer:\n  learning_rate: 1e-4\n")
    config = load(path, ["training.batch_size=32", "data.augment.color=0", "data.train=folder:/a=b", "data.cache="])
    assert config.training.num_epochs == 7 and config.training.batch_size == 32
    assert config.optimizer.learning_rate == 1e-4  # PyYAML reads it as text
    assert config.data.train == "folder:/a=b" and config.data.cache == ""
    assert config.data.augment.color == 0.0 and isinstance(config.data.augment.color, float)
    assert config.model == Config().model


@pytest.mark.parametrize("text", ["", "# nothing\n", "training:\n  num_epochs: 10\n"])
def test_an_empty_file_means_the_defaults(tmp_path, text):
    assert load(write(tmp_path, text)) == load() == Config()


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1", 1.0), ("3E+2", 300.0), (".5", 0.5)])
def test_numbers_in_every_notation(text, value):
    rate = load(None, [f"optimizer.learning_rate={text}"]).optimizer.learning_rate
    assert rate == value and isinstance(rate, float)
    assert load(None, ["training.num_epochs=1e2"]).training.num_epochs == 100


def test_round_trip(tmp_path):
    config = load(None, ["optimizer.learning_rate=1e-7", "seed=-3", "data.augment.noise=0.1", "data.train=folder:x"])
    assert load(write(tmp_path, configs.dump(config))) == config
    assert configs.from_dict(configs.to_dict(config)) == config
    assert configs.to_dict(config) == yaml.safe_load(configs.dump(config))


def test_differences():
    old = Config()
    new = load(None, ["training.batch_size=32", "data.augment.color=0"])
    assert configs.differences(old, old) == []
    assert configs.differences(old, new) == ["data.augment.color: 0.2 -> 0.0", "training.batch_size: 64 -> 32"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("training.batch_sise", "training.batch_size"),
        ("training.epochs", "training.num_epochs"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("train.batch_size", "training"),
        ("batch_size", "training.batch_size"),
        ("model.learning_rate", "optimizer.learning_rate"),
        ("data.augment.colour", "data.augment.color"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_key(key, hint):
    text = message(f"{key}=1")
    assert "unknown key" in text and f"Did you mean {hint!r}?" in text


def test_an_unknown_key_without_a_neighbour_lists_the_known_keys():
    assert "Known keys: seed, data, hand, model" in message("zzzz=1")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.num_epochs", "must have the form key=value"),
        ("training.batch_size=2.5", "training.batch_size must be int"),
        ("training.batch_size=true", "training.batch_size must be int"),
        ("training.batch_size=many", "training.batch_size must be int, got 'many'"),
        ("optimizer.learning_rate=[1]", "optimizer.learning_rate must be float"),
        ("data.test={a: 1}", "data.test must be str"),
        ("training=5", "'training' is a section and must have keys, such as training.num_epochs, got 5"),
        ("data.view=side", "data.view must be one of front, all"),
        ("data.test_split=train", "data.test_split must be one of test, val"),
        ("scheduler.name=step", "scheduler.name must be one of cosine, constant, got 'step'"),
        ("data.crop_rule=3", "data.crop_rule must be one of square, hamer, mediapipe, got '3'"),
        ("model.vit.size=XL", "model.vit.size must be one of \"\", S, B, L, H, got 'XL'"),
        ("data.depth_dropout=1.1", "data.depth_dropout must be between 0 and 1"),
        ("data.image_size=0", "data.image_size must be at least 1"),
        ("model.width=1", "model.width must be at least 2"),
        ("model.width=1000000000", "model.width must be at most 65,536, got 1000000000"),  # XLA would end the process
        ("model.blocks=-1", "model.blocks must be at least 0"),
        ("optimizer.learning_rate=-1e-3", "optimizer.learning_rate must be positive"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate must be positive"),
        ("optimizer.weight_decay=.inf", "optimizer.weight_decay must be at least 0 and finite"),
        ("optimizer.b1=1", "optimizer.b1 must be below 1"),
        ("data.crop_scale=0", "data.crop_scale must be positive"),
        ("data.augment.scale=1", "data.augment.scale must be below 1"),
        ("scheduler.warmup_steps=-1", "scheduler.warmup_steps must be at least 0"),
        ("seed=1e30", "seed must fit in 64 bits"),
    ],
)
def test_values_no_run_could_use(override, words):
    assert words in message(override)


def test_every_number_refuses_nan_and_values_below_its_minimum():
    def flat(tree, path=""):
        for key, value in tree.items():
            yield from flat(value, f"{path}{key}.") if isinstance(value, dict) else [(path + key, value)]

    for key, value in flat(configs.to_dict(Config())):
        if isinstance(value, (int, float)) and key != "seed":
            assert key in message(f"{key}=-2" if key.startswith("training.mesh.") else f"{key}=-1")
            assert key in message(f"{key}=.nan")


def test_all_losses_off():
    names = [field.name for field in dataclasses.fields(configs.LossConfig) if field.type is float]
    assert "nothing would be learned" in message(*(f"loss.{name}=0" for name in names))
    assert load(None, [f"loss.{name}=0" for name in names[1:]]).loss.joints_3d > 0


def test_test_freq_is_accepted():
    assert load(None, ["training.test_freq=5"]).training.test_freq == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "not valid YAML"), ("- 1\n", "must have keys and values, got a list"), ("training: 3", "is a section")],
)
def test_a_broken_file(tmp_path, text, words):
    path = write(tmp_path, text)
    assert words in message(path=path) and str(path) in message(path=path)


def test_a_missing_file(tmp_path):
    assert str(tmp_path / "no.yaml") in message(path=tmp_path / "no.yaml")
    assert "Is a directory" in message(path=tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not valid YAML" in message(path=tmp_path / "bytes.yaml")


def test_the_project_s_own_configs_load():
    paths = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
    assert paths
    for path in paths:
        assert math.isfinite(load(path).optimizer.learning_rate), path
        assert path.read_text().startswith("#"), path  # the first line is its command


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_configs_set_only_what_differs_and_show_their_command(path):
    text = path.read_text()
    assert text.startswith(("# python -m jaxhand.train", "# make train"))
    given, default = yaml.safe_load(text), configs.to_dict(Config())
    config = configs.to_dict(load(path))

    def check(given, config, default):
        for key, value in given.items():
            if isinstance(default[key], dict) and default[key]:
                check(value, config[key], default[key])
            else:
                assert config[key] != default[key], f"{key}: {value} is the default"

    check(given, config, default)


@pytest.mark.parametrize("text", ["null", "~", "", "[100, 110]", "[1e2, 110]"])
def test_the_steps_of_a_trace(text, tmp_path):
    """Two steps or nothing, on the command line and in a file."""
    config = configs.load(None, [f"training.profile={text}"])
    assert config.training.profile == ((100, 110) if "[" in text else None)
    (tmp_path / "config.yaml").write_text(configs.dump(config))
    assert configs.load(tmp_path / "config.yaml") == configs.from_dict(configs.to_dict(config)) == config


@pytest.mark.parametrize(
    "text", ["[5, 5]", "[9, 5]", "[0, 3]", "[3]", "[1, 2, 3]", "[1.5, 2]", "[a, b]", "12", "{a: 1}"]
)
def test_steps_that_are_no_trace(text):
    wanted = r"^config: training.profile must be the first and the last step, such as \[100, 110\], got [^\n]+$"
    with pytest.raises(configs.ConfigError, match=wanted):
        configs.load(None, [f"training.profile={text}"])


def test_widths_of_layers_are_a_list():
    config = load(None, ["model.fusion.graph=[64, 32]"])
    assert config.model.fusion.graph == (64, 32)
    assert configs.from_dict(yaml.safe_load(configs.dump(config))) == config
    for wrong in ("64", "[]", "[64, x]", "[64, 0]", "{a: 1}", "[true]"):
        assert "model.fusion.graph must be" in message(f"model.fusion.graph={wrong}"), wrong


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("data.train=folder:/data/my #1 set", lambda config: config.data.train == "folder:/data/my #1 set"),
        ("data.train=freihand:", lambda config: config.data.train == "freihand:"),  # the data set names its path
        ("data.train={folder:/a: 0.5, rhd:/b: 1}", lambda c: c.data.train == {"folder:/a": 0.5, "rhd:/b": 1.0}),
        ("training.init_from=no", lambda config: config.training.init_from == "no"),
        ("training.init_from=010", lambda config: config.training.init_from == "010"),
        ("training.init_from=2024-13-45", lambda config: config.training.init_from == "2024-13-45"),
        ("data.cache='a b'", lambda config: config.data.cache == "a b"),
        ("data.cache=null", lambda config: config.data.cache == ""),
        ("training.batch_size=010", lambda config: config.training.batch_size == 10),
        ("seed=9007199254740993", lambda config: config.seed == 2**53 + 1),
        ("seed=-1_000", lambda config: config.seed == -1000),
        ("model.remat=yes", lambda config: config.model.remat is True),
        ("model.options={a: 010, b: [no, 1e-3], c: '5'}",
         lambda config: config.model.options == {"a": 10, "b": [False, 1e-3], "c": "5"}),
    ],
)  # fmt: skip
def test_the_type_of_the_field_decides(override, read, tmp_path):
    """Text fields take the text as typed, and numbers are decimal, in overrides and in files."""
    assert read(load(None, [override]))
    key, _, text = override.partition("=")
    section, _, name = key.rpartition(".")
    if "#" not in text and not text.endswith(":"):  # YAML gives these a meaning of its own
        line = f"{section}: {{{name}: {text}}}" if section else f"{name}: {text}"
        assert read(load(write(tmp_path, line)))


@pytest.mark.parametrize("text", ["0x10", "1:30", "2024-01-01", "1e400", "9" * 400, "9" * 5000, "0b11"])
def test_odd_numbers_are_refused_in_a_short_line(text):
    for key in ("training.batch_size", "optimizer.learning_rate"):
        words = message(f"{key}={text}")
        assert key in words and len(words) < 250


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.crop_scale=1e9", "data.crop_scale must be positive and at most 10, got"),
        ("optimizer.learning_rate=1e6", "optimizer.learning_rate must be positive and at most 1,000"),
        ("data.augment.rotation_deg=400", "between 0 and 180"),
        ("data.image_size=100000", "at least 1 and at most 4,096"),
        ("training.batch_size=1e9", "at least 1 and at most 1,048,576"),
    ],
)
def test_values_beyond_reason(override, words):
    assert words in message(override)


def test_a_file_with_a_byte_order_mark(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert load(tmp_path / "bom.yaml").seed == 3


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert configs.cache_folder() == tmp_path / "jaxhand"
    for unset in ("delete", "empty"):
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        if unset == "delete":
            monkeypatch.delenv("XDG_CACHE_HOME")
        assert configs.cache_folder() == Path.home() / ".cache" / "jaxhand"
