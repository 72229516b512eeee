"""Mixes: shares by weight, no repeats within a pass, the same on any number of processes, resumed at any sample."""

import dataclasses
import json

import numpy as np
import pytest

from jaxhand import data
from jaxhand.config import ConfigError, DataConfig, UserError, load
from jaxhand.data.mix import Mix, order
from jaxhand.data.pipeline import steps_per_epoch, train_iterator
from jaxhand.data.record import Record

SIZES, WEIGHTS = [50, 7, 400], [0.3, 0.2, 0.5]
FIRSTS = np.array([0, 50, 57])


class Source:
    """Records whose pixels encode set and index."""

    def __init__(self, mark, count):
        self.mark, self.count = mark, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return dataclasses.replace(
            self.read_annotation(i), image=np.full((16, 16, 3), (self.mark, i % 256, i // 256), np.uint8)
        )

    def read_annotation(self, i):
        K = np.array([[20.0, 0, 7.5], [0, 20.0, 7.5], [0, 0, 1]])
        joints = np.random.default_rng(i).uniform((-90, -90, 400), (90, 90, 500), (21, 3))
        return Record(None, K, joints, np.ones(21), "right", name=f"{self.mark}/{i}")


BY_NAME = {"a": 3, "b": 2, "c": 5}


def make_mix(weights=BY_NAME):
    return Mix({name: Source(mark, size) for mark, (name, size) in enumerate(zip("abc", SIZES))}, dict(weights))


def make_config(*overrides):
    return load(None, ["training.batch_size=6", "data.image_size=16", "data.augment={rotation_deg: 30}", *overrides])


def of_set(indices, k):
    """The draws of an order from set k, as indices into it."""
    indices = indices[(indices >= FIRSTS[k]) & (indices < FIRSTS[k] + SIZES[k])]
    return indices - FIRSTS[k]


def test_shares_are_the_weights_and_every_sample_is_drawn_on_its_own():
    epochs = [order(SIZES, WEIGHTS, 0, epoch, 3000) for epoch in range(4)]
    sets = np.searchsorted(FIRSTS, np.concatenate(epochs), side="right") - 1
    shares = np.bincount(sets) / len(sets)
    deviation = np.sqrt(np.array(WEIGHTS) * (1 - np.array(WEIGHTS)) / len(sets))
    assert (np.abs(shares - WEIGHTS) < 4 * deviation).all()
    together = ((sets[1:] == 2) & (sets[:-1] == 2)).mean()  # of independent neighbours
    assert abs(together - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(sets)) + 0.02
    assert len({np.bincount(sets[i * 3000 : (i + 1) * 3000])[2] for i in range(4)}) > 1  # drawn, not rounded


@pytest.mark.parametrize("k", range(3))
def test_a_set_is_used_up_before_it_comes_again_whatever_the_epochs(k):
    drawn = np.concatenate([of_set(order(SIZES, WEIGHTS, 3, epoch, 600), k) for epoch in range(5)])
    passes = [drawn[i : i + SIZES[k]] for i in range(0, len(drawn), SIZES[k])]
    assert len(passes) > 3
    for whole in passes[:-1]:
        assert sorted(whole) == list(range(SIZES[k]))
    assert len(set(passes[-1])) == len(passes[-1])
    assert not np.array_equal(passes[0], passes[1])


def test_an_order_is_a_function_of_seed_and_epoch():
    np.testing.assert_array_equal(order(SIZES, WEIGHTS, 5, 2, 100), order(SIZES, WEIGHTS, 5, 2, 100))
    assert not np.array_equal(order(SIZES, WEIGHTS, 5, 2, 100), order(SIZES, WEIGHTS, 6, 2, 100))
    assert (order([3], [1.0], 0, 4, 1) < 3).all()  # an epoch is less than one pass
    assert len(order([1000, 1000], [1e-9, 1 - 1e-9], 0, 0, 10)) == 10  # nothing is drawn from a set


def test_a_mix_is_its_sets_one_after_the_other():
    mix = make_mix()
    assert len(mix) == sum(SIZES)
    for i in (0, 49, 50, 56, 57, 456, -1):
        k = int(np.searchsorted(FIRSTS, i % len(mix), side="right")) - 1
        name = f"{k}/{i % len(mix) - FIRSTS[k]}"
        assert mix[i].name == mix.read_annotation(i).name == name and mix[i].image[0, 0, 0] == k
        assert mix.read_annotation(i).image is None
    with pytest.raises(IndexError):
        mix[len(mix)]
    with pytest.raises(UserError, match="^b: no records; leave this data set out of the mix"):
        Mix({"a": Source(0, 3), "b": Source(1, 0)}, {"a": 1, "b": 1})


def test_the_order_of_the_names_does_not_matter():
    orders = {"a": 3, "b": 2, "c": 5}, {"c": 5, "a": 3, "b": 2}
    one, two = (next(train_iterator(make_mix(weights), make_config())) for weights in orders)
    np.testing.assert_array_equal(one["image"], two["image"])


@pytest.mark.parametrize("done", [0, 5, 16])
def test_resume_and_processes(done):
    config = make_config("training.epoch_samples=50", "data.threads=3")
    whole = train_iterator(make_mix(), config)
    for _ in range(done):
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    parts = [train_iterator(make_mix(), config, process_index=i, process_count=2) for i in range(2)]
    for part in parts:
        part.set_state(state)
    for _ in range(10):
        expected, found = next(whole), [next(part) for part in parts]
        for key in expected:
            np.testing.assert_array_equal(np.concatenate([part[key] for part in found]), expected[key], err_msg=key)


def test_an_epoch_is_as_long_as_asked():
    assert steps_per_epoch(make_mix(), make_config()) == sum(SIZES) // 6
    assert steps_per_epoch(make_mix(), make_config("training.epoch_samples=50")) == 8
    small = make_config("training.epoch_samples=24")
    iterator = train_iterator(Source(0, 10), small)  # one set: every record once before any repeats
    drawn = np.concatenate([next(iterator)["index"] for _ in range(10)])
    assert all(sorted(drawn[i : i + 10]) == list(range(10)) for i in range(0, 60, 10))
    with pytest.raises(UserError, match="training.batch_size is 6, but training.epoch_samples is 5; lower"):
        steps_per_epoch(make_mix(), make_config("training.epoch_samples=5"))


def test_named_in_a_config(monkeypatch, tmp_path):
    monkeypatch.setattr(
        data, "read", lambda kind, path, split, without_val, mano_path: Source(*map(int, path.split("x")))
    )
    text = "data:\n  train:\n    freihand:1x4: 0.25\n    ho3d:2x6: 1e-1\n"
    (tmp_path / "mix.yaml").write_text(text)
    config = load(tmp_path / "mix.yaml")
    mix = data.load(config.data.train, "train", config.data, 0)
    assert mix.names == ["freihand:1x4", "ho3d:2x6"] and list(mix.sizes) == [4, 6]
    np.testing.assert_allclose(mix.weights, [0.25 / 0.35, 0.1 / 0.35])
    assert load(None, ["data.train={freihand:1x4: .25, ho3d:2x6: .1}"]).data.train == config.data.train
    assert load(tmp_path / "mix.yaml", ["data.train=synthetic"]).data.train == "synthetic"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train={}", "data.train: contains no data set"),
        ("data.train={a: 0}", "data.train: the weight of a must be positive and finite, got 0.0"),
        ("data.train={a: -.inf}", "the weight of a must be positive"),
        ("data.train={a: much}", "data.train: a must be float, got 'much'"),
        ("data.train={a: {b: 1}}", "data.train: a must be float"),
        ("data.test={a: 1}", "data.test must be str"),
        ("training.epoch_samples=-1", "training.epoch_samples must be between 0 and"),
    ],
)
def test_wrong_weights_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load(None, [override])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "freihnd:/x",
            "unknown data set 'freihnd'; did you mean 'freihand'\\? known: synthetic, freihand:PATH, ho3d:PATH",
        ),
        ("Synthetic", "unknown data set 'Synthetic'; did you mean 'synthetic'"),
        ("dexycb-s1", "unknown data set 'dexycb-s1'; give its path, dexycb-s1:PATH"),
        ("folder:", "give its path, folder:PATH"),
        ("folder-x:/y", "folder-x: unknown"),
    ],
)
def test_unknown_sets_are_named(name, message):
    with pytest.raises(UserError, match=message):
        data.load({name: 1.0}, "train", DataConfig(), 0)


def test_a_seed_stands_for_the_same_order_in_every_version():
    """Eight samples of the third epoch, of sets with 5 and 3 records; the second has three quarters of the weight."""
    drawn = order(np.array([5, 3]), np.array([0.25, 0.75]), 7, 2, 8)
    assert drawn.tolist() == [1, 5, 7, 7, 5, 6, 7, 0]
