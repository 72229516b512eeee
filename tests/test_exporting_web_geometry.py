"""The page's crops and geometry are those of Python: its TypeScript runs in Node on the same values."""

import base64

import cv2
import numpy as np
import pytest

from jaxhand.data.crop import crop, crop_transform
from jaxhand.data.crop_rules import RULES
from jaxhand.data.images import header
from jaxhand.data.record import Record
from jaxhand.hand import roi
from jaxhand.hand.camera import uncrop
from jaxhand.hand.placement import place_on_rays
from jaxhand.inference.mediapipe_pipeline import cut
from jaxhand.models.palm_detector import overlap, suppress
from tests.support import page
from tests.support.exif import FOCAL, FOCAL_35MM, PLANE_RESOLUTION, PLANE_UNIT, RECORDED_WIDTH, with_exif

WIDTH, HEIGHT = 301, 223
RULE = RULES["square"]
SQUARES = [  # centre, side, direction up: turned, tiny, much larger than the picture, partly and entirely outside
    ((150.0, 110.0), 90.0, (0.0, -1.0)),
    ((120.3, 99.7), 61.7, (0.6, -0.8)),
    ((150.0, 111.0), 301.0, (0.0, -1.0)),
    ((150.0, 111.0), 620.0, (-0.28, 0.96)),
    ((10.0, 215.0), 140.0, (0.96, 0.28)),
    ((-400.0, 50.0), 100.0, (0.0, -1.0)),
]
BOXES = [(100.0, 60.0, 180.0, 190.0), (-20.0, 30.0, 70.0, 250.0), (40.5, 40.25, 52.0, 50.0)]
SIZE = 64
JPEG = cv2.imencode(".jpg", np.full((300, 400, 3), 90, np.uint8))[1].tobytes()
PHOTOGRAPHS = [
    JPEG,
    with_exif(JPEG, {FOCAL: 4.25}),
    with_exif(JPEG, {FOCAL_35MM: 26, FOCAL: 4.2}),
    with_exif(JPEG, {FOCAL_35MM: 50}, order=">"),
    with_exif(JPEG, {FOCAL: 4.25, PLANE_RESOLUTION: 1000, PLANE_UNIT: 4, RECORDED_WIDTH: 4000}),
    with_exif(JPEG, {FOCAL: 4.25, PLANE_RESOLUTION: 2540}, orientation=6)[:-700],
]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Coarse structures with noise."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (HEIGHT // 8 + 1, WIDTH // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:HEIGHT, :WIDTH]
    return np.clip(coarse + rng.integers(-20, 21, coarse.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def values(image) -> dict:
    """Arguments of both sides: joints in px and mm, palms with scores, a camera."""
    rng = np.random.default_rng(5)
    joints = rng.uniform(50, 200, (21, 2))
    palms = np.repeat(rng.uniform(20, 160, (6, 1, 2)), 40, 0) + rng.normal(0, 3, (240, 9, 2))
    palms[:, 1] += 40
    return {
        "joints": joints,
        "world": rng.normal(0, 40, (21, 3)),
        "palms": palms,
        "scores": rng.uniform(0.2, 1, 240),
        "K": np.array([[310.0, 2.0, 149.0], [0, 305.0, 112.0], [0, 0, 1]]),
    }


@pytest.fixture(scope="module")
def found(image, values, tmp_path_factory) -> dict:
    """What the page's functions return. One run of Node for all tests."""
    rule = {
        "image_size": SIZE, "crop_scale": 1.4, "box_aspect": RULE.box_aspect, "mirror_left": RULE.mirror_left,
        "pixel_center_offset": RULE.pixel_center_offset,
    }  # fmt: skip
    photograph, joints = page.picture(image), values["joints"]
    squares = [{"center": center, "side": side, "up": up} for center, side, up in SQUARES]
    first = {
        "rois": [["cropOfRoi", [square, size]] for square in squares for size in (SIZE, 192)],
        "boxes": [["cropOfBox", [box, right, WIDTH, rule]] for box in BOXES for right in (True, False)],
        "of_joints": [["ofJoints", [joints]]],
        "of_palm": [["ofPalm", [values["palms"][0]]]],
        "whole": [["whole", [WIDTH, HEIGHT]]],
        "turned": [["turnBack", [values["world"], squares[1]]]],
        "placed": [["placeOnRays", [values["world"], joints, values["K"]]]],
        "suppressed": [["suppress", [values["palms"], values["scores"]]]],
        "overlap": [["overlap", [BOXES[0], box]] for box in BOXES],
        "focal": [
            ["focalLength", [{"bytes": base64.b64encode(file).decode()}, 400, 300]] for file in PHOTOGRAPHS
        ],
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("node")
    found = _split(first, page.compute(sum(first.values(), []), folder))
    second = {
        "roi_pixels": [["cut", [photograph, one]] for one in found["rois"]],
        "box_pixels": [["cut", [photograph, one]] for one in found["boxes"]],
        "box_maps": [["pictureToCrop", [one, WIDTH]] for one in found["boxes"]],
        "box_cameras": [["cropCamera", [one, values["K"], WIDTH]] for one in found["boxes"]],
    }
    return found | _split(second, page.compute(sum(second.values(), []), folder))


def _split(cases: dict[str, list], results: list) -> dict[str, list]:
    """The results of all cases by name."""
    results = iter(results)
    return {name: [next(results) for _ in group] for name, group in cases.items()}


def assert_same_pixels(mine: np.ndarray, theirs: list) -> None:
    """OpenCV computes in float32, so a few pixels in ten thousand are rounded to the next grey level."""
    difference = np.abs(np.asarray(theirs, float).reshape(mine.shape) - mine)
    assert difference.max() <= 1 and difference.mean() < 0.001


def test_rotated_crops(image, found):
    cases = [(square, size) for square in SQUARES for size in (SIZE, 192)]
    for (square, size), theirs, pixels in zip(cases, found["rois"], found["roi_pixels"]):
        mine = roi.Roi(np.array(square[0]), square[1], np.array(square[2]))
        np.testing.assert_allclose(theirs["A"], mine.matrix(size), atol=1e-9)
        out = np.zeros((size, size, 3), np.uint8)
        cut(image, mine, out)
        assert_same_pixels(out, pixels)


def test_crops_of_boxes_for_both_sides(image, values, found):
    cases = [(box, right) for box in BOXES for right in (True, False)]
    rows = zip(cases, found["box_pixels"], found["box_maps"], found["box_cameras"])
    rng = np.random.default_rng(7)
    for (box, right), pixels, to_crop, camera in rows:
        side = "right" if right else "left"
        record = Record(image, values["K"], np.zeros((21, 3)), np.zeros(21), side, bbox=np.array(box))
        mine, transform = crop(record, SIZE, 1.4), crop_transform(record, SIZE, 1.4)
        assert_same_pixels(mine["image"], pixels)
        np.testing.assert_allclose(to_crop, transform.A, atol=1e-9)
        np.testing.assert_allclose(camera, mine["K"], atol=1e-3)  # float32
        joints, points = rng.uniform(0, SIZE, (21, 2)), rng.normal(0, 50, (21, 3))
        in_image, in_camera = uncrop(joints, points, mine["K"], values["K"], float(right))
        theirs = np.linalg.inv(to_crop) @ np.column_stack([joints, np.ones(21)]).T
        np.testing.assert_allclose(theirs[:2].T, in_image, atol=1e-3)
        np.testing.assert_allclose(points * (1 if right else -1, 1, 1), in_camera)


def test_squares_around_hands(values, found):
    joints, palm = values["joints"], values["palms"][0]
    for name, mine in (
        ("of_joints", roi.of_joints(joints)),
        ("of_palm", roi.of_palm(palm)),
        ("whole", roi.whole(WIDTH, HEIGHT)),
    ):
        [theirs] = found[name]
        for key in ("center", "side", "up"):
            np.testing.assert_allclose(theirs[key], getattr(mine, key), atol=1e-9)


def test_places_before_the_camera(values, found):
    np.testing.assert_allclose(
        found["placed"][0], place_on_rays(values["world"], values["joints"], values["K"]), atol=1e-5
    )
    square = roi.Roi(np.array(SQUARES[1][0]), SQUARES[1][1], np.array(SQUARES[1][2]))
    np.testing.assert_allclose(found["turned"][0], values["world"] @ square.rotation(), atol=1e-9)


def test_palms_that_overlap_become_one(values, found):
    mine, _ = suppress(values["palms"], values["scores"], least=0.5)
    assert 1 < len(mine) < 40
    np.testing.assert_allclose(found["suppressed"][0], mine, atol=1e-9)
    np.testing.assert_allclose(found["overlap"], overlap(np.array(BOXES[0]), np.array(BOXES)), atol=1e-12)


def test_focal_length_of_photographs(found):
    mine = [header.focal_length(file) for file in PHOTOGRAPHS]
    assert mine[:2] == [None, None] and None not in mine[2:]
    assert found["focal"] == [None if focal is None else pytest.approx(focal) for focal in mine]
