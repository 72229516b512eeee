"""Real hands from motion capture, in the same batch as crops."""

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.mocap import MocapBatches
from jaxhand.data.pipeline import train_iterator
from tests.test_data_pipeline import Source, assert_same, make_config, take


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mocap.npz"
    np.savez(path, hand_pose=np.arange(7 * 48.0).reshape(7, 48), betas=np.arange(7 * 10.0).reshape(7, 10))
    return path


def test_each_row_gets_two_complete_hands(file):
    config = make_config(f"data.mocap={file}")
    batches = take(train_iterator(Source(20), config), 4)
    for batch in batches:
        pose, shape = batch["mocap_pose"], batch["mocap_shape"]
        assert pose.shape == (6, 2, 48) and shape.shape == (6, 2, 10) and pose.dtype == np.float32
        np.testing.assert_array_equal(pose[..., 0] / 48, shape[..., 0] / 10)  # pose and shape are of the same hand
    assert len({batch["mocap_pose"][..., 0].tobytes() for batch in batches}) == 4
    plain = take(train_iterator(Source(20), make_config()), 4)
    for one, two in zip(batches, plain):
        assert_same({key: one[key] for key in two}, two)  # the crops do not depend on it


def test_hands_are_the_same_on_any_number_of_processes_and_after_a_resume(file):
    config = make_config(f"data.mocap={file}")
    one = take(train_iterator(Source(20), config), 3)
    parts = [take(train_iterator(Source(20), config, process_index=i, process_count=2), 3) for i in range(2)]
    for whole, *shares in zip(one, *parts):
        np.testing.assert_array_equal(whole["mocap_pose"], np.concatenate([part["mocap_pose"] for part in shares]))
    iterator = train_iterator(Source(20), config)
    next(iterator)
    resumed = train_iterator(Source(20), config)
    resumed.set_state(iterator.get_state())
    np.testing.assert_array_equal(next(resumed)["mocap_pose"], one[1]["mocap_pose"])


@pytest.mark.parametrize(
    "arrays", [{"hand_pose": np.ones((3, 48))}, {"hand_pose": np.ones((3, 45)), "betas": np.ones((3, 10))}]
)
def test_arrays_of_another_shape_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match="bad.npz: (betas|hand_pose) must be"):
        MocapBatches(tmp_path / "bad.npz", 0, 4, slice(0, 4))
