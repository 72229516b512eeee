"""Crops as HaMeR makes them: the box, its pixels and the blur, compared with a plain version; and unknown cameras."""

import numpy as np
import pytest

from jaxhand.data import crop_rules
from jaxhand.data.crop import crop, warp
from jaxhand.data.crop_rules import RULES
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.record import Record
from jaxhand.hand import roi
from jaxhand.hand.camera import project, uncrop
from jaxhand.hand.draw import write_png

HAMER = RULES["hamer"]
K = np.array([[500.0, 0, 150], [0, 510, 120], [0, 0, 1]])


def record_of(image, bbox, **fields):
    joints = np.random.default_rng(0).uniform((-60, -60, 500), (60, 60, 600), (21, 3))
    return Record(image=image, K=K, keypoints_3d=joints, joint_valid=np.ones(21), bbox=np.float64(bbox), **fields)


def texture(height, width):
    rng, smooth = np.random.default_rng(3), np.linspace(0, 9, width)
    image = 127 + 60 * np.sin(smooth) + 40 * np.cos(np.linspace(0, 7, height))[:, None]
    return np.clip(image[..., None] + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def hamer_crop(image, bbox, scale, size):
    """Blur, then a bilinear sample at every pixel: pixel `size` / 2 shows the centre; black outside."""
    (x0, y0, x1, y1), (height, width) = bbox, image.shape[:2]
    w, h = scale * (x1 - x0), scale * (y1 - y0)
    w, h = (w, w * 256 / 192) if h / w < 256 / 192 else (h * 192 / 256, h)
    side = max(w, h)
    image, factor = image.astype(float), side / size / 2
    if factor > 1.1:
        sigma = (factor - 1) / 2
        reach = int(4 * sigma + 0.5)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        for axis in (0, 1):
            padded = np.pad(image, [(reach, reach) if i == axis else (0, 0) for i in range(3)], mode="edge")
            slices = [padded.take(range(i, i + image.shape[axis]), axis) for i in range(2 * reach + 1)]
            image = np.tensordot(kernel / kernel.sum(), slices, 1)
    rows, columns = np.indices((size, size))
    x = (columns - size / 2) * side / size + (x0 + x1) / 2
    y = (rows - size / 2) * side / size + (y0 + y1) / 2
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    i, j = np.clip(np.floor(y), -1, height - 1).astype(int), np.clip(np.floor(x), -1, width - 1).astype(int)
    b, a = np.clip(y - i, 0, 1)[..., None], np.clip(x - j, 0, 1)[..., None]
    top = (1 - a) * padded[i + 1, j + 1] + a * padded[i + 1, j + 2]
    return (1 - b) * top + b * ((1 - a) * padded[i + 2, j + 1] + a * padded[i + 2, j + 2])


@pytest.mark.parametrize("bbox", [(100, 60, 170, 130), (20, 30, 280, 130), (90.5, 10, 150, 230.25), (-30, 90, 60, 240)])
@pytest.mark.parametrize("size", [64, 24])  # hardly smaller, and strongly blurred
def test_a_crop_is_hamers(bbox, size):
    image = texture(240, 300)
    ours = crop(record_of(image, bbox, hand="right"), size, 2.0, rule=HAMER)["image"]
    difference = np.abs(ours - hamer_crop(image, bbox, 2.0, size))
    assert difference.max() < 5 and difference.mean() < 0.6  # OpenCV samples at 1/32 px, and rounds


def test_boxes_are_enlarged_to_three_by_four():
    assert HAMER.side(100, 50) == pytest.approx(100 * 4 / 3) and HAMER.side(50, 120) == 120
    assert RULES["square"].side(100, 50) == 100


@pytest.mark.parametrize("hand", ["right", "left"])
def test_labels_follow_and_come_back(hand):
    record = record_of(texture(240, 300), (100, 60, 170, 130), hand=hand)
    sample = crop(record, 64, 2.0, rule=HAMER)
    np.testing.assert_allclose(project(sample["keypoints_3d"], sample["K"]), sample["keypoints_2d"], atol=2e-3)
    pixels, joints = uncrop(*(sample[key] for key in ("keypoints_2d", "keypoints_3d", "K")), K, sample["is_right"])
    np.testing.assert_allclose(pixels, project(record.keypoints_3d, K), atol=5e-3)
    np.testing.assert_allclose(joints, record.keypoints_3d, rtol=1e-5)
    middle, _ = uncrop(np.array([[32.0, 32.0]]), np.ones((1, 3)), sample["K"], K, sample["is_right"])
    np.testing.assert_allclose(middle, [[135, 95]], atol=1e-3)


def test_a_photo_is_cropped_as_its_pixels_are(tmp_path):
    image = texture(240, 300)
    write_png(tmp_path / "a.png", image)
    one, two = (
        crop(record_of(pixels, (20, 30, 280, 130), hand="left"), 32, 2.0, rule=HAMER)
        for pixels in (image, EncodedImage.read(tmp_path / "a.png"))
    )
    np.testing.assert_array_equal(one["image"], two["image"])


def test_an_unknown_camera():
    np.testing.assert_array_equal(RULES["square"].camera(640, 480), [[768, 0, 319.5], [0, 768, 239.5], [0, 0, 1]])
    np.testing.assert_array_equal(HAMER.camera(512, 256), [[10000, 0, 256], [0, 10000, 128], [0, 0, 1]])


def upright_hand(angle, hand="left", **fields):
    """A hand that leans by an angle from upright, radians, clockwise."""
    rng = np.random.default_rng(0)
    joints = np.stack([rng.uniform(-40, 40, 21), -np.arange(21) * 4.0, rng.uniform(-20, 20, 21)], 1)
    cos, sin = np.cos(angle), np.sin(angle)
    joints = joints @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).T + (10, -5, 500)
    return Record(texture(240, 320), K, joints, np.ones(21), hand, **fields)


@pytest.mark.parametrize("hand", ["right", "left"])
@pytest.mark.parametrize("angle", [0.0, 1.0, -2.5])
def test_mediapipes_crop_is_the_square_of_its_second_pass(hand, angle):
    record = upright_hand(angle, hand, bbox=np.array([0.0, 0, 10, 10]))
    sample = crop(record, 224, 1.5, rule=RULES["mediapipe"])
    square = roi.of_joints(project(record.keypoints_3d, K))
    A = square.matrix(224)
    pixels = project(record.keypoints_3d, K) @ A[:2, :2].T + A[:2, 2]
    np.testing.assert_allclose(sample["keypoints_2d"], pixels, atol=1e-3)
    np.testing.assert_allclose(sample["keypoints_3d"], record.keypoints_3d @ square.rotation().T, atol=1e-3)
    expected = np.zeros((224, 224, 3), np.uint8)
    warp(record.image, A, 224 / square.side, False, expected)
    np.testing.assert_array_equal(sample["image"], expected)  # not mirrored
    assert sample["is_right"] == 1


@pytest.mark.parametrize("change", [{}, {"rotation": 0.4, "scale": 1.1, "shift": (0.05, -0.03)}])
def test_mediapipes_crop_is_undone_by_uncrop(change):
    record = upright_hand(0.8)
    sample = crop(record, 224, 1.5, rule=RULES["mediapipe"], **change)
    np.testing.assert_allclose(project(sample["keypoints_3d"], sample["K"]), sample["keypoints_2d"], atol=2e-3)
    keys = ("keypoints_2d", "keypoints_3d", "K", "K_image", "is_right", "rotation")
    pixels, joints = uncrop(*(sample[key] for key in keys))
    np.testing.assert_allclose(joints, record.keypoints_3d, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(pixels, project(record.keypoints_3d, K), atol=5e-3)


def test_mediapipes_crop_without_all_joints_is_upright_around_the_box():
    record = upright_hand(0.8, "right", bbox=np.array([100.0, 60, 180, 160]))
    record.joint_valid[3] = 0
    sample, square = (crop(record, 224, 1.5, rule=RULES[name]) for name in ("mediapipe", "square"))
    np.testing.assert_array_equal(sample["image"], square["image"])
    assert sample["rotation"] == 0


def test_the_rules_in_numbers():
    assert RULES["square"].side(30, 50) == 50 and RULES["square"].side(0.2, 0.5) == 1
    assert HAMER.side(30, 50) == 50 and HAMER.side(60, 50) == pytest.approx(80)
    np.testing.assert_allclose(RULES["square"].camera(640, 480), [[768, 0, 319.5], [0, 768, 239.5], [0, 0, 1]])
    np.testing.assert_allclose(HAMER.camera(480, 640), [[12500, 0, 240], [0, 12500, 320], [0, 0, 1]])
    mediapipe = RULES["mediapipe"]
    assert (mediapipe.box_aspect, mediapipe.pixel_center_offset, mediapipe.focal) == (1, 0, 1.2)
    assert mediapipe.along_hand and not mediapipe.mirror_left and not mediapipe.antialias_blur
    for rule in (RULES["square"], HAMER):
        assert rule.mirror_left and not rule.along_hand
    assert HAMER.antialias_blur and not RULES["square"].antialias_blur


def test_the_box_of_a_whole_image():
    """Enlarged by the crop's scale, it spans all pixels, from -0.5 to width - 0.5."""
    np.testing.assert_allclose(crop_rules.whole_image_box(640, 480, 1.0), [-0.5, -0.5, 639.5, 479.5])
    np.testing.assert_allclose(crop_rules.whole_image_box(640, 480, 2.0), [159.5, 119.5, 479.5, 359.5])


def test_the_blur_in_numbers():
    assert crop_rules.blur_sigma(2.2) == 0  # a factor of 1.1 to twice the crop's pixels
    assert crop_rules.blur_sigma(2.21) == pytest.approx(0.0525) and crop_rules.blur_sigma(8) == 1.5
    assert [crop_rules.blur_reach(sigma) for sigma in (0, 0.12, 0.13, 1.5)] == [0, 0, 1, 6]
    point = np.zeros((9, 9, 1), np.float32)
    point[4, 4] = 1
    kernel = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    kernel /= kernel.sum()
    np.testing.assert_allclose(crop_rules.blur(point, 1.0), kernel[:, None] * kernel, atol=1e-6)
    edge = np.zeros((9, 9), np.float32)
    edge[:, 0] = 1
    assert crop_rules.blur(edge, 1.0)[4, 0] == pytest.approx(kernel[4:].sum())  # the border is repeated
