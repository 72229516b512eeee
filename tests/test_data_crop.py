"""The crop: labels follow the pixels, left hands come out right, depth is centred without labels, and back again."""

import numpy as np
import pytest

from jaxhand.data.crop import crop, crop_transform
from jaxhand.data.record import Record
from jaxhand.hand.camera import DEPTH_RANGE_MM, project, uncrop

K = np.array([[310.0, 4.0, 118.0], [0.0, 295.0, 107.0], [0.0, 0.0, 1.0]])  # skewed, fx != fy, off the middle
CHANGES = [
    {},
    {"rotation": 0.6},
    {"scale": 1.7, "shift": (0.1, -0.07)},
    {"rotation": -2.2, "scale": 0.8, "shift": (-0.05, 0.1)},
]
MIRRORED = {"rotation": 0.4, "scale": 1.3, "mirror": True}


def make_record(hand="right", height=230, width=260, K=K, **fields):
    rng = np.random.default_rng(5)
    joints = rng.uniform((-90, -90, 520), (90, 90, 640), (21, 3))
    fields = {"image": np.zeros((height, width, 3), np.uint8), "joint_valid": np.ones(21)} | fields
    return Record(K=K, keypoints_3d=joints, hand=hand, **fields)


def with_blob(record, joint, sigma):
    """The record with a bright Gaussian, and a disc of depth, at the joint's pixel."""
    x, y = project(record.keypoints_3d, record.K)[joint]
    height, width = record.image.shape[:2]
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    square = (columns - x) ** 2 + (rows - y) ** 2
    image = np.repeat(255 * np.exp(-square / (2 * sigma**2))[..., None], 3, axis=-1).astype(np.uint8)
    depth = np.where(square < (2 * sigma) ** 2, 500.0, 0.0)
    return Record(image, record.K, record.keypoints_3d, record.joint_valid, record.hand, depth=depth)


def centroid(weight):
    rows, columns = np.indices(weight.shape)
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize("hand", ["right", "left"])
@pytest.mark.parametrize("change", [*CHANGES, MIRRORED])
@pytest.mark.parametrize("size, sigma", [(128, 3.0), (40, 8.0)])  # enlarged or equal, and shrunk by complete blocks
def test_labels_follow_the_pixels(hand, change, size, sigma):
    for joint in (0, 8, 17):
        sample = crop(with_blob(make_record(hand), joint, sigma), size, 2.5, **change)
        where = sample["keypoints_2d"][joint]
        assert np.all(where > 4) and np.all(where < size - 5)  # the blob must be inside for a meaningful centroid
        assert np.abs(centroid(sample["image"][..., 0].astype(float)) - where).max() < 0.05
        assert np.abs(centroid((sample["depth"] < 1).astype(float)) - where).max() < 0.7  # nearest pixel


@pytest.mark.parametrize("hand", ["right", "left"])
@pytest.mark.parametrize("change", [*CHANGES, MIRRORED])
def test_new_camera_projects_new_joints_to_new_pixels(hand, change):
    record = make_record(hand)
    sample = crop(record, 64, 1.4, **change)
    np.testing.assert_allclose(project(sample["keypoints_3d"], sample["K"]), sample["keypoints_2d"], atol=2e-3)
    bones = np.linalg.norm(np.diff(record.keypoints_3d, axis=0), axis=-1)
    np.testing.assert_allclose(np.linalg.norm(np.diff(sample["keypoints_3d"], axis=0), axis=-1), bones, rtol=1e-5)
    np.testing.assert_allclose(sample["keypoints_3d"][:, 2], record.keypoints_3d[:, 2], rtol=1e-6)
    assert sample["is_right"] == ((hand == "right") != change.get("mirror", False))


def test_left_hand_equals_the_right_hand_of_the_mirrored_image():
    image = np.random.default_rng(0).integers(0, 255, (90, 121, 3), dtype=np.uint8)
    flip = np.array([[-1, 0, 120], [0, 1, 0], [0, 0, 1]])
    left = make_record("left", image=image, bbox=np.array([30.0, 20.0, 90.0, 80.0]))
    right = Record(
        image=image[:, ::-1],
        K=flip @ K @ np.diag([-1, 1, 1]),
        keypoints_3d=left.keypoints_3d * (-1, 1, 1),
        joint_valid=np.ones(21),
        hand="right",
        bbox=np.array([30.0, 20.0, 90.0, 80.0]),
    )
    one, two = (crop(record, 48, 1.0, rotation=0.3, shift=(0.1, 0.0)) for record in (left, right))
    for key in ("keypoints_3d", "keypoints_2d", "K"):
        np.testing.assert_allclose(one[key], two[key], rtol=1e-5, atol=1e-4)
    assert np.abs(one["image"].astype(int) - two["image"]).max() <= 2


@pytest.mark.parametrize("hand", ["right", "left"])
def test_a_crop_of_the_whole_image_copies_it(hand):
    rng = np.random.default_rng(0)
    image, depth = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), rng.uniform(400, 600, (64, 64)).astype(np.float32)
    half = 64 / 1.4 / 2
    box = np.array([31.5 - half, 31.5 - half, 31.5 + half, 31.5 + half], np.float32)
    K64 = np.array([[80.0, 0, 31.5], [0, 80.0, 30.0], [0, 0, 1]])
    record = make_record(hand, image=image, depth=depth, bbox=box, K=K64)
    sample = crop(record, 64, 1.4)
    np.testing.assert_array_equal(sample["image"], image if hand == "right" else image[:, ::-1])
    shown = np.clip((depth - sample["depth_center"]) / DEPTH_RANGE_MM, -1, 1)
    np.testing.assert_allclose(sample["depth"], shown if hand == "right" else shown[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(project(sample["keypoints_3d"], sample["K"]), sample["keypoints_2d"], atol=1e-3)
    transform = crop_transform(record, 64, 1.4)
    assert transform.whole_image and (transform.zoom, transform.rotation) == (1, 0)
    nearly = crop(record, 64, 1.4, rotation=1e-6 + 0.0101 / 64)  # through the warp: nothing but its rounding differs
    assert np.abs(nearly["image"].astype(int) - sample["image"]).max() <= 3
    np.testing.assert_allclose(nearly["keypoints_2d"], sample["keypoints_2d"], atol=0.02)


def test_square_is_around_the_valid_joints():
    valid = np.ones(21)
    valid[[3, 9]] = 0
    sample = crop(make_record(joint_valid=valid), 100, 1.25)
    seen = sample["keypoints_2d"][valid > 0]
    low, high = seen.min(0), seen.max(0)
    np.testing.assert_allclose((low + high) / 2, 49.5, atol=1e-3)
    np.testing.assert_allclose((high - low).max(), 80, atol=1e-3)
    assert not sample["keypoints_3d"][[3, 9]].any() and not sample["keypoints_2d"][[3, 9]].any()
    np.testing.assert_array_equal(sample["joint_valid"], valid)


@pytest.mark.parametrize("hand", ["right", "left"])
@pytest.mark.parametrize("change", CHANGES)
def test_labels_in_2d_only_go_where_projected_ones_go(hand, change):
    whole, valid = make_record(hand), np.ones(21)
    valid[[2, 11]] = 0
    pixels = project(whole.keypoints_3d, K)
    pixels[2] = np.nan
    nominal = np.array([[5000 / 256 * 260, 0, 129.5], [0, 5000 / 256 * 260, 114.5], [0, 0, 1]])
    labels = {"keypoints_2d": pixels, "joint_valid_2d": valid}
    flat = Record(whole.image, nominal, np.zeros((21, 3)), np.zeros(21), hand, **labels)
    one = crop(make_record(hand, joint_valid=valid), 64, 1.4, **change)
    two = crop(flat, 64, 1.4, **change)
    np.testing.assert_allclose(two["keypoints_2d"], one["keypoints_2d"], atol=1e-3)
    np.testing.assert_array_equal(two["joint_valid_2d"], valid)
    assert not two["joint_valid"].any() and not two["keypoints_3d"].any() and np.isfinite(two["K"]).all()


@pytest.mark.parametrize("shift", [(-6, 0), (6, 0), (0, -6), (0, 6)])
def test_a_crop_outside_the_image_is_black(shift):
    record = make_record(image=np.full((230, 260, 3), 200, np.uint8))
    assert crop(record, 64, 1.4)["image"].max() == 200
    assert crop(record, 64, 1.4, shift=shift)["image"].max() == 0


def test_without_box_and_joints_the_whole_image_is_taken():
    image = np.zeros((50, 80, 3), np.uint8)
    image[:, 79] = 255
    sample = crop(make_record(image=image, joint_valid=np.zeros(21)), 80, 1.4)
    np.testing.assert_array_equal(sample["image"][15:65], image)  # centred, the rest is black
    assert not sample["image"][:15].any() and np.isfinite(sample["keypoints_2d"]).all()


def test_shrinking_averages():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 200
    sample = crop(make_record(image=stripes, bbox=np.array([0.0, 0.0, 255.0, 255.0])), 32, 1.0)
    assert np.abs(sample["image"][2:-2, 2:-2].astype(int) - 100).max() <= 2


def depth_sample(depth):
    size = len(depth)
    box = np.array([-0.5, -0.5, size - 0.5, size - 0.5])
    return crop(make_record(image=np.zeros((size, size, 3), np.uint8), depth=depth, bbox=box), size, 1.0)


@pytest.mark.parametrize("background", [0.0, 560.0, 3000.0])
def test_depth_center_is_on_the_hand(background):
    rng = np.random.default_rng(1)
    depth = np.full((64, 64), background)
    depth[20:44, 16:48] = rng.uniform(480, 520, (24, 32))  # three quarters of the central half
    depth[rng.random((64, 64)) < 0.3] = 0  # holes
    depth[rng.random((64, 64)) < 0.02] = 150  # flying pixels
    sample = depth_sample(depth.astype(np.float32))
    assert sample["has_depth"] == 1 and 470 < sample["depth_center"] < 530
    assert sample["depth"].min() >= -1 and sample["depth"].max() <= 1
    assert (sample["depth"][depth == 0] == 1).all()


def test_unknown_depth_is_no_depth():
    for depth in (np.zeros((32, 32), np.float32), np.full((32, 32), np.nan, np.float32)):
        sample = depth_sample(depth)
        assert sample["has_depth"] == 0 and sample["depth_center"] == 0 and not sample["depth"].any()
    sample = crop(make_record(), 32, 1.4)
    assert sample["has_depth"] == 0 and sample["depth"].shape == (32, 32) and not sample["depth"].any()


def test_uncrop_is_the_inverse():
    records = [make_record("right"), make_record("left")]
    samples = [crop(record, 64, 1.4, scale=1.1, shift=(0.1, 0.0)) for record in records]
    batch = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    names = ("keypoints_2d", "keypoints_3d", "K")
    pixels, joints = uncrop(*(batch[name] for name in names), np.stack([K, K]), batch["is_right"])
    for i, record in enumerate(records):
        np.testing.assert_allclose(joints[i], record.keypoints_3d, rtol=1e-5)
        np.testing.assert_allclose(pixels[i], project(record.keypoints_3d, K), atol=5e-3)
    one, _ = uncrop(*(samples[1][name] for name in names), K, samples[1]["is_right"])
    np.testing.assert_allclose(one, pixels[1], atol=1e-9)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [260, 64, 20])  # enlarged, and averaged in blocks
def test_a_left_hand_is_the_right_hand_of_the_mirrored_photograph_to_the_bit(change, size):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (230, 260, 3), np.uint8)
    depth = rng.uniform(400, 700, (230, 260)).astype(np.float32)
    box, mirrored_box = np.array([40.0, 30, 190, 170]), np.array([259.0 - 190, 30, 259 - 40, 170])
    right = crop(make_record("right", image=image, depth=depth, bbox=box), size, 1.5, **change)
    flipped = make_record("left", image=image[:, ::-1], depth=depth[:, ::-1], bbox=mirrored_box)
    left = crop(flipped, size, 1.5, **change)
    for key in ("image", "depth", "depth_center"):
        np.testing.assert_array_equal(left[key], right[key])
    assert not left["is_right"] and np.ptp(right["image"]) > 0


def test_without_box_and_joints_the_crop_is_the_whole_image():
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, :3] = image[:, -3:] = 255
    record = make_record(image=image, joint_valid=np.zeros(21))
    sample = crop(record, 200, 1.7)
    assert (sample["image"][50:150, :3] == 255).all() and (sample["image"][50:150, -3:] == 255).all()
    assert not sample["image"][:49].any() and not sample["image"][151:].any()
