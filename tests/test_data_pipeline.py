"""Batches: every sample once, the same on any number of processes, resumed at the next sample."""

import dataclasses
import json

import numpy as np
import pytest

from jaxhand import data
from jaxhand.config import HandConfig, UserError, load
from jaxhand.data.pipeline import eval_batches, steps_per_epoch, train_iterator
from jaxhand.data.record import Record, WithoutDepth, sample_joints
from jaxhand.data.synthetic import dataset
from jaxhand.data.synthetic.dataset import SyntheticSet
from jaxhand.hand.builtin import surface
from jaxhand.hand.camera import DEPTH_RANGE_MM


class Source:
    """Records whose pixels encode their index."""

    def __init__(self, count, depth=True):
        self.count, self.depth = count, depth

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if not 0 <= i < self.count:
            raise IndexError(i)
        rng = np.random.default_rng(i)
        return Record(
            image=np.full((16, 16, 3), i, np.uint8),
            K=np.array([[20.0, 0, 7.5], [0, 20.0, 7.5], [0, 0, 1]]),
            keypoints_3d=rng.uniform((-90, -90, 400), (90, 90, 500), (21, 3)),
            joint_valid=np.ones(21),
            hand="right" if i % 3 else "left",
            depth=np.full((16, 16), 450, np.float32) if self.depth else None,
        )


def make_config(*overrides, batch_size=6):
    turned = "data.augment={rotation_deg: 30, scale: 0.2, shift: 0.1}"
    return load(None, [f"training.batch_size={batch_size}", "data.image_size=16", turned, *overrides])


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_batch_has_the_contract_of_shapes():
    batch = next(train_iterator(Source(20), make_config()))
    shapes = {key: (value.shape[1:], value.dtype.name) for key, value in batch.items()}
    assert shapes == {
        "image": ((16, 16, 3), "uint8"),
        "depth": ((16, 16), "float32"),
        "has_depth": ((), "float32"),
        "depth_center": ((), "float32"),
        "keypoints_3d": ((21, 3), "float32"),
        "keypoints_2d": ((21, 2), "float32"),
        "joint_valid": ((21,), "float32"),
        "joint_valid_2d": ((21,), "float32"),
        "K": ((3, 3), "float32"),
        "K_image": ((3, 3), "float64"),
        "is_right": ((), "float32"),
        "rotation": ((), "float64"),
        "index": ((), "int32"),
        "valid": ((), "float32"),
    }
    assert all(len(value) == 6 for value in batch.values()) and batch["valid"].all()
    np.testing.assert_array_equal(batch["is_right"], batch["index"] % 3 > 0)
    np.testing.assert_array_equal(batch["image"][:, 8, 8, 0], batch["index"])


def test_every_epoch_is_another_permutation():
    config = make_config("data.threads=3")
    assert steps_per_epoch(Source(20), config) == 3
    iterator = train_iterator(Source(20), config)
    epochs = [np.concatenate([batch["index"] for batch in take(iterator, 3)]) for _ in range(8)]
    for epoch in epochs:
        assert len(set(epoch)) == 18  # at most once each; the two unused ones change
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert set(np.concatenate(epochs)) == set(range(20))
    other = train_iterator(Source(20), make_config("seed=-1"))
    assert not np.array_equal(np.concatenate([batch["index"] for batch in take(other, 3)]), epochs[0])


@pytest.mark.parametrize("done", [0, 4, 7])
def test_resume_goes_on_with_the_very_next_batch(done):
    config = make_config("data.threads=3")
    iterator = train_iterator(Source(20), config)
    take(iterator, done)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 5)
    resumed = train_iterator(Source(20), config)
    next(resumed)  # also from an iterator that has read ahead
    resumed.set_state(state)
    for one, two in zip(expected, take(resumed, 5)):
        assert_same(one, two)
    assert resumed.get_state() == iterator.get_state()


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_same_global_batches(processes):
    config = make_config()
    whole = take(train_iterator(Source(20), config), 5)
    iterators = [train_iterator(Source(20), config, process_index=i, process_count=processes) for i in range(processes)]
    for expected in whole:
        parts = [next(iterator) for iterator in iterators]
        assert_same({key: np.concatenate([part[key] for part in parts]) for key in expected}, expected)
    assert len({json.dumps(iterator.get_state()) for iterator in iterators}) == 1


def test_augmentation_does_not_depend_on_threads_and_changes_with_the_epoch():
    one = take(train_iterator(Source(6), make_config("data.threads=1")), 2)
    two = take(train_iterator(Source(6), make_config("data.threads=4")), 2)
    for a, b in zip(one, two):
        assert_same(a, b)
    first, second = (batch["keypoints_2d"][np.argsort(batch["index"])] for batch in one)  # an epoch is one batch
    assert np.abs(first - second).max() > 0.5


def test_hidden_depth_is_removed_from_the_batch():
    batches = take(train_iterator(Source(60), make_config("data.depth_dropout=0.4", batch_size=60)), 5)
    has_depth = np.concatenate([batch["has_depth"] for batch in batches])
    assert 0.5 < has_depth.mean() < 0.7
    for batch in batches:
        hidden = batch["has_depth"] == 0
        assert not batch["depth"][hidden].any() and not batch["depth_center"][hidden].any()
        assert (batch["depth_center"][~hidden] == 450).all()
    shown = next(train_iterator(Source(20), make_config("data.depth_dropout=0")))
    assert shown["has_depth"].all()
    assert not next(train_iterator(Source(20, depth=False), make_config()))["has_depth"].any()


@pytest.mark.parametrize("count", [1, 12, 13, 20])
@pytest.mark.parametrize("processes", [1, 2])
def test_every_test_sample_comes_exactly_once(count, processes):
    config = make_config("data.depth_dropout=1")
    parts = [
        list(eval_batches(Source(count), config, 6, process_index=i, process_count=processes)) for i in range(processes)
    ]
    assert {len(part) for part in parts} == {-(-count // 6)}
    batches = [{key: np.concatenate([b[key] for b in row]) for key in row[0]} for row in zip(*parts)]
    index, valid = (np.concatenate([batch[key] for batch in batches]) for key in ("index", "valid"))
    np.testing.assert_array_equal(index[valid > 0], np.arange(count))
    assert (index[valid == 0] == count - 1).all()
    for batch in batches:
        np.testing.assert_array_equal(batch["image"][:, 8, 8, 0], batch["index"])
        assert batch["has_depth"].all()  # evaluation hides and rotates nothing


def test_test_batches_can_be_walked_again():
    batches = eval_batches(Source(8), make_config(), 6)
    for one, two in zip(list(batches), list(batches), strict=True):
        assert_same(one, two)


def test_impossible_batch_sizes_are_refused():
    with pytest.raises(UserError, match="batch_size is 6, but the training set has 5 samples"):
        train_iterator(Source(5), make_config())
    with pytest.raises(UserError, match="a batch of 6 cannot be divided by 4 processes"):
        train_iterator(Source(20), make_config(), process_index=0, process_count=4)
    with pytest.raises(UserError, match="a batch of 7 cannot be divided by 2 processes"):
        eval_batches(Source(20), make_config(), 7, process_index=0, process_count=2)


def test_error_of_a_record_reaches_the_training():
    class Broken(Source):
        def __getitem__(self, i):
            raise UserError("train.jsonl:3: image a.jpg is cut off")

    with pytest.raises(UserError, match="train.jsonl:3: image a.jpg"):
        next(train_iterator(Broken(20), make_config()))


def test_labels_are_read_without_images_where_a_source_can_and_leave_out_hands_without_3d():
    class Flat(Source):
        def __getitem__(self, i):
            raise AssertionError("an image is decoded for its labels")

        def read_annotation(self, i):
            record = Source.__getitem__(self, i)
            return dataclasses.replace(record, image=None, joint_valid=np.full(21, float(i % 2)))

    joints, valid = sample_joints(WithoutDepth(Flat(10)), 10)
    assert joints.shape == (5, 21, 3) and valid.all()
    mirrored = [Source(10)[i].keypoints_3d * ((-1, 1, 1) if i % 3 == 0 else (1, 1, 1)) for i in range(1, 10, 2)]
    np.testing.assert_array_equal(joints, np.float32(mirrored))
    assert sample_joints(Flat(1), 5)[0].shape == (0, 21, 3)


def test_a_rendered_set_comes_through_untouched():
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8),
        "depth": rng.integers(400, 500, (8, 16, 16), dtype=np.uint16),
        "K": np.tile(np.float32([[20, 0, 7.5], [0, 20, 7.5], [0, 0, 1]]), (8, 1, 1)),
        "keypoints_3d": rng.uniform((-90, -90, 400), (90, 90, 500), (8, 21, 3)).astype(np.float32),
    }
    config = make_config("data.augment={}", "data.depth_dropout=0")
    batch = next(train_iterator(SyntheticSet(arrays, "synthetic", config.data.crop_scale), config))
    for key in ("image", "K", "keypoints_3d"):
        np.testing.assert_array_equal(batch[key], arrays[key][batch["index"]])
    shown = batch["depth"] * DEPTH_RANGE_MM + batch["depth_center"][:, None, None]
    np.testing.assert_allclose(shown, arrays["depth"][batch["index"]], atol=1e-3)


def test_the_built_in_world_is_asked_for_the_split(monkeypatch):
    monkeypatch.setattr(dataset, "load", lambda *args, **options: (args, options))
    config = make_config("data.train_samples=8", "data.test_samples=5", "data.cache=here", "data.view=all").data
    options = {"size": 16, "view": "all", "seed": 3, "cache": "here", "crop_scale": 1.4, "mesh": False}
    assert data.load("synthetic", "train", config, 3) == (("train", 8), options)
    assert data.load("synthetic", "val", config, 3) == (("val", 5), options)
    assert data.load("synthetic", "val", config, 3, HandConfig()) == (("val", 5), options | {"mesh": True})


def test_memory_is_used_again_only_when_nobody_holds_it():
    config = make_config("data.threads=1")
    source = Source(20)
    batches = take(train_iterator(source, config), 9)
    expected = [{key: np.copy(value) for key, value in batch.items()} for batch in batches]
    held, places = [], []
    iterator = train_iterator(source, config)
    for batch in take(iterator, 9):
        held.append(batch)
        places.append(batch["image"].ctypes.data)
    for one, two in zip(held, expected):
        assert_same(one, two)
    assert len(set(places)) == 9
    corner = held[4]["K"][2:, 0]  # a view of a view of one key holds all of its batch
    value = corner.copy()
    del held, batch, one
    later = [next(iterator)["image"].ctypes.data for _ in range(12)]
    assert places[4] not in later and len(set(later)) < 6  # each was released at once
    np.testing.assert_array_equal(corner, value)
    np.testing.assert_array_equal(value, expected[4]["K"][2:, 0])


def test_left_hands_that_stay_have_no_mesh():
    config = make_config("data.crop_rule=mediapipe")
    assert next(train_iterator(Source(20), config))["is_right"].all()
    with pytest.raises(UserError, match="data.crop_rule=mediapipe leaves left hands as they are"):
        train_iterator(Source(20), config, hand_model=surface.builtin())


def test_a_seed_stands_for_the_same_batches_in_every_version():
    """Records, augmentation and hidden depth of the first steps: a run that is resumed goes on as it began."""
    batches = take(train_iterator(Source(20), make_config("seed=3")), 4)  # three steps per epoch
    assert [batch["index"].tolist() for batch in batches] == [
        [16, 12, 18, 8, 3, 13],
        [15, 10, 6, 1, 2, 11],
        [17, 0, 14, 9, 4, 7],
        [16, 3, 11, 7, 12, 14],
    ]
    np.testing.assert_allclose(
        batches[0]["rotation"], [-0.258393, 0.040591, 0.259501, -0.167674, 0.263281, -0.009277], atol=1e-5
    )
    assert [batch["has_depth"].tolist() for batch in batches[:2]] == [[0, 1, 1, 1, 0, 1], [1, 1, 0, 1, 1, 1]]
