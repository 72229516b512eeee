"""The predictor: hands at known positions, left hands mirrored back, few compiled batch sizes, and its errors."""

import dataclasses
import subprocess
import sys
import types

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from flax import nnx

import jaxhand
from jaxhand.config import UserError, load
from jaxhand.data.images.encoded import read_image
from jaxhand.hand.camera import project
from jaxhand.hand.skinned import SkinnedHand
from jaxhand.inference import predictor
from jaxhand.models.hamer import Hamer
from jaxhand.models.mano_head import mano_predictions
from jaxhand.training.sharding import make_mesh
from tests.support import hamer_models

K = np.array([[620.0, 3.0, 300.0], [0.0, 600.0, 250.0], [0.0, 0.0, 1.0]])
BALL = trimesh.creation.icosphere(subdivisions=1, radius=30.0)
SIDES = ["right", "left", "left", "right"]  # of the scene's four hands
POSITIONS = np.array([[-120.0, 10, 500], [60, 40, 480], [130, -90, 620], [-40, -80, 530]])  # mm


def ball_hand() -> SkinnedHand:
    """A hand model that is a rigid ball."""
    count, rng = len(BALL.vertices), np.random.default_rng(1)
    points = np.concatenate([BALL.vertices, rng.uniform(-30, 30, (21, 3))])
    zeros = [np.zeros((len(points), 3, 10)), np.zeros((len(points), 3, 135))]
    weights = np.eye(1, 16).repeat(count + 5, axis=0)
    return SkinnedHand("ball", "right", points, *zeros, 0.0, weights, np.int32(BALL.faces), np.zeros(45), np.eye(45))


HAND = ball_hand()


class Stub(nnx.Module):
    """A model that applies a function to the batch; `sizes` are the batch sizes that it was compiled for."""

    def __init__(self, function):
        self.function, self.sizes = function, Sizes()

    def __call__(self, batch):
        self.sizes.append(len(batch["image"]))
        return self.function(batch)


class Sizes(list):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


@pytest.fixture
def stub(monkeypatch, tiny):
    """Makes a predictor whose model is a function of the batch, and the list of batch sizes it was compiled for."""

    def stub(function, batch_size=8, **data):
        model = Stub(function)
        config = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, **data))
        best = types.SimpleNamespace(config=config, params={}, rest={})
        tester = types.SimpleNamespace(device_mesh=make_mesh(), graphdef=nnx.split(model)[0])
        monkeypatch.setattr(predictor, "load_best", lambda workdir: (tester, best))
        monkeypatch.setattr(predictor.hand, "load", lambda config: HAND)
        return predictor.Predictor("run", batch_size=batch_size), model.sizes

    return stub


def scene(K=K, width=640, height=480):
    """An image of four hands: squares whose grey value encodes their number; joints (4, 21, 3) mm and boxes (4, 4)."""
    joints = np.random.default_rng(2).uniform(-50, 50, (4, 21, 3)) + POSITIONS[:, None]
    pixels = project(joints, K)  # (4, 21, 2)
    boxes = np.concatenate([pixels.min(1), pixels.max(1)], axis=1)
    image = np.full((height, width, 3), 255, np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(np.round(boxes).astype(int)):
        image[max(y0, 0) : y1, max(x0, 0) : x1] = 50 * number
    return image, joints, boxes


def mirrored_lefts(points):
    """Points (4, ..., 3) of the scene's hands with left hands mirrored, as a model predicts them."""
    signs = np.array([[1 if side == "right" else -1, 1, 1] for side in SIDES])
    return points * signs.reshape(4, *[1] * (points.ndim - 2), 3)


def number_of(batch):
    middle = batch["image"].shape[1] // 2
    return jnp.round(batch["image"][:, middle, middle, 0] * 255 / 50).astype(int)


def exact_joints(joints):
    def function(batch):
        seen = jnp.float32(mirrored_lefts(joints))[number_of(batch)]
        return {"keypoints_3d": seen, "keypoints_2d": project(seen, batch["K"])}

    return function


def test_hands_at_known_positions_are_predicted_there(stub):
    """An exact model: four hands of one image, right and left, in one batch with a hand of another image and camera."""
    image, joints, boxes = scene()
    other_K = np.array([[300.0, 0, 90], [0, 310, 100], [0, 0, 1]])
    other = np.full((200, 180, 3), 100, np.uint8)  # number 2
    other_box = np.concatenate([project(joints[2], other_K).min(0), project(joints[2], other_K).max(0)])
    read, sizes = stub(exact_joints(joints))
    found = read([image, other], [boxes, other_box], [SIDES, "left"], [K, other_K])
    assert found["image"].tolist() == [0, 0, 0, 0, 1] and sizes == [8]
    assert found["is_right"].tolist() == [True, False, False, True, False]
    truth = np.concatenate([joints, joints[2:3]])
    np.testing.assert_allclose(found["keypoints_3d"], truth, atol=1e-3)
    np.testing.assert_allclose(found["keypoints_2d"][:4], project(joints, K), atol=0.01)
    np.testing.assert_allclose(found["keypoints_2d"][4], project(joints[2], other_K), atol=0.01)
    np.testing.assert_array_equal(found["K"], [K] * 4 + [other_K])
    np.testing.assert_array_equal(found["boxes"], [*boxes, other_box])


@pytest.mark.parametrize("rule", ["square", "hamer"])
def test_weak_perspective_cameras_recover_positions(stub, rule):
    """A model predicts only scale and position in its crop; with the true K its hands are at their true positions."""
    image, _, boxes = scene()
    turns = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 3, 3)))[0]
    turns *= np.linalg.det(turns)[:, None, None]

    def function(batch):
        size, K = batch["image"].shape[1], batch["K"]
        at = jnp.float32(mirrored_lefts(POSITIONS))[number_of(batch)]  # (B, 3) mm
        focal = jnp.sqrt(K[:, 0, 0] * K[:, 1, 1])
        scale = 1000 * focal / at[:, 2]  # px a metre
        camera = (project(at[:, None], K)[:, 0] - size / 2) / scale[:, None]
        rotations = jnp.tile(jnp.eye(3), (len(at), 16, 1, 1)).at[:, 0].set(jnp.float32(turns)[number_of(batch)])
        camera = jnp.concatenate([2 * scale[:, None] / size, camera], axis=-1)
        return mano_predictions(HAND, rotations, jnp.zeros((len(at), 10)), camera, batch)

    read, _ = stub(function, crop_rule=rule)
    found = read(image, boxes, SIDES, K)
    np.testing.assert_allclose(found["camera_translation"], POSITIONS, atol=0.02)
    for i, side in enumerate(SIDES):
        mirror = np.diag([1 if side == "right" else -1, 1, 1])
        origin = HAND.template[-16]  # it rotates about its wrist
        expected = ((BALL.vertices - origin) @ turns[i].T + origin) @ mirror + POSITIONS[i]
        np.testing.assert_allclose(found["vertices"][i], expected, atol=0.02)
        turn = cv2.Rodrigues(found["mano_pose"][i, :3].astype(float))[0]  # of a left hand: of the left hand's own mesh
        posed = ((BALL.vertices - origin) @ mirror @ turn.T + origin @ mirror) + found["camera_translation"][i]
        np.testing.assert_allclose(found["vertices"][i], posed, atol=0.02)
        mesh = trimesh.Trimesh(found["vertices"][i], found["faces"][i], process=False)
        assert mesh.is_watertight and mesh.volume > 0  # outward, of left hands too


def test_translation_with_hamers_own_focal_length(stub):
    """Equals HaMeR's `cam_crop_to_full` for any crop."""
    image, _, boxes = scene()
    s, tx, ty = 0.9, 0.02, -0.03

    def function(batch):
        still = jnp.tile(jnp.eye(3), (len(batch["K"]), 16, 1, 1))
        camera = jnp.tile(jnp.float32([s, tx, ty]), (len(still), 1))
        return mano_predictions(HAND, still, jnp.zeros((len(still), 10)), camera, batch, focal=5000 / 256)

    read, _ = stub(function, crop_rule="hamer", crop_scale=2.0)
    found = read(image, boxes, SIDES)
    focal = 5000 / 256 * 640
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        side = 2.0 * max(y1 - y0, (x1 - x0) * 4 / 3)
        sign = 1 if SIDES[i] == "right" else -1
        moved = [
            sign * tx + 2 * ((x0 + x1) / 2 - 320) / (side * s),
            ty + 2 * ((y0 + y1) / 2 - 240) / (side * s),
            2 * focal / (side * s),
        ]
        np.testing.assert_allclose(found["camera_translation"][i], 1000 * np.array(moved), rtol=1e-4)
        own = project(found["keypoints_3d"][i].astype(float), found["K"][i])
        np.testing.assert_allclose(found["keypoints_2d"][i], own, atol=0.05)


def test_few_sizes_are_compiled(stub):
    read, sizes = stub(exact_joints(scene()[1]), batch_size=8)
    image, _, boxes = scene()
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 13, 20, 0):
        found = read(image, boxes[np.arange(count) % 4], [SIDES[i % 4] for i in range(count)], K)
        assert len(found["keypoints_3d"]) == count
    assert sorted(sizes) == [1, 2, 4, 8]


def test_arguments_of_every_form(stub):
    """One image equals a list with one image; one side and one K serve all images; no box means the whole image."""
    image, joints, boxes = scene()
    read, _ = stub(exact_joints(joints))
    one = read(image, boxes[3], "right", K)
    for same in (
        read([image], [boxes[3]], ["right"], [K]),
        read(image[None], [boxes[3:]], K=K.tolist()),
        read((image, image), [boxes[3].tolist(), []], "right", K),
        read(image, boxes[3:], ["right"], K, np.zeros(image.shape[:2])),
    ):
        for key in one:
            np.testing.assert_array_equal(same[key], one[key], err_msg=key)
    whole = read([image, image[:, ::-1].copy()], hands="left")
    assert whole["is_right"].tolist() == [False, False] and whole["image"].tolist() == [0, 1]
    np.testing.assert_array_equal(whole["K"], 2 * [[[768, 0, 319.5], [0, 768, 239.5], [0, 0, 1]]])
    nothing = read([image, image], [[], np.zeros((0, 4))])
    assert {key: len(value) for key, value in nothing.items()} == dict.fromkeys(one, 0)
    assert nothing["keypoints_3d"].shape == (0, 21, 3)


def test_depth_is_cropped_like_the_image(stub):
    """Depth is cropped like the image, mirrored for a left hand; NaN counts as unknown."""
    image, _, boxes = scene()
    depth = np.tile(np.linspace(450, 550, 640), (480, 1))
    depth[:, 300:400] = np.nan

    def function(batch):
        near = batch["depth"][:, 32, ::9] * 150 + batch["depth_center"][:, None]  # (B, 8) mm
        seen = jnp.stack([near, batch["depth"][:, 32, ::9] == 1, batch["has_depth"][:, None] + 0 * near], axis=-1)
        return {"keypoints_3d": jnp.pad(seen, ((0, 0), (0, 13), (0, 0))), "keypoints_2d": jnp.zeros((len(near), 21, 2))}

    read, _ = stub(function)
    right, left = read([image, image], [boxes[2]] * 2, ["right", "left"], K, [depth, depth])["keypoints_3d"][:, :8]
    known = right[:, 1] == 0
    assert known.any() and np.diff(right[known, 0]).min() > 0 and (right[:, 2] == 1).all()
    np.testing.assert_allclose(left[::-1, 0][known], -right[known, 0], atol=2)  # sign: uncrop takes it for x
    assert (read(image, boxes[2], "right", K)["keypoints_3d"][0, :8, 2] == 0).all()


IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.mark.parametrize("arguments, line", [
    ({"images": IMAGE / 255}, r"must be an array \(H, W, 3\) of uint8, RGB, got float64 \(48, 64, 3\)"),
    ({"images": IMAGE[..., 0]}, r"uint8, RGB, got uint8 \(48, 64\)"),
    ({"images": "hand.jpg"}, "^image hand.jpg does not exist$"),
    ({"images": [IMAGE, None]}, "^image 1: .*got NoneType"),
    ({"images": IMAGE[:0]}, "the image is empty: 64x0 px"),
    ({"boxes": [1, 2, 3]}, r"boxes must be numbers of shape \(n, 4\), got \(3,\)"),
    ({"boxes": [[1, 2, 30, 40], [3, 4]]}, "boxes must be numbers of shape"),
    ({"boxes": ["a", "b", "c", "d"]}, "boxes must be numbers, got"),
    ({"boxes": [1, 2, 30, np.nan]}, "boxes has NaN"),
    ({"boxes": [30, 2, 1, 40]}, "bbox must be x0, y0, x1, y1 with x0 < x1"),
    ({"boxes": [70, 2, 90, 40]}, r"box \[70.0, 2.0, 90.0, 40.0\] lies outside the image of 64x48 px"),
    ({"hands": "Right"}, 'must be "right" or "left", got \'Right\''),
    ({"boxes": [1, 2, 30, 40], "hands": ["left", "right"]}, '"left" for each of the 1 boxes, got 2'),
    ({"K": np.eye(4)}, r"K must be numbers of shape \(3, 3\), got \(4, 4\)"),
    ({"K": -np.eye(3)}, r"K must be \[\[fx, skew, cx\]"),
    ({"depth": np.ones((48, 63))}, r"depth must be numbers of shape \(48, 64\), got \(48, 63\)"),
    ({"depth": np.full((48, 64), 0.6)}, "depth seems to be in metres"),
    ({"images": [IMAGE, IMAGE], "boxes": [[1, 2, 3, 4]]}, "boxes must have an entry for each of the 2 images, got 1"),
    ({"images": [IMAGE, IMAGE], "boxes": [None, [9, 9, 3, 3]]}, "^image 1: bbox must be"),
    ({"hands": 3}, 'hands must be "right" or "left", or a list with one of them for each box, got 3'),
    ({"boxes": [1, 2, 30, 40], "hands": [3]}, 'a hand must be "right" or "left", got 3'),
    ({"boxes": [1, 2, 30, 40], "hands": [["left"]]}, r"a hand must be .* got \['left'\]"),
    ({"images": [IMAGE], "hands": 3}, "hands must have an entry for each of the 1 images, got 3"),
    ({"images": [IMAGE], "boxes": np.float64(3)}, "boxes must have an entry for each of the 1 images, got"),
    ({"images": None}, "uint8, RGB, got NoneType"),
    ({"boxes": 10**400}, "boxes must be numbers"),
    ({"boxes": [10**400, 1, 2, 3]}, "boxes must be numbers"),
])  # fmt: skip
def test_user_errors_are_named(stub, arguments, line):
    read, _ = stub(None)
    with pytest.raises(UserError, match=line):
        read(**{"images": IMAGE} | arguments)


def test_a_batch_size_must_be_a_power_of_two(stub):
    with pytest.raises(UserError, match="batch_size must be a power of two"):
        stub(None, batch_size=12)


@pytest.fixture(scope="module")
def trained_predictor(trained):
    return jaxhand.load(trained.workdir)


def test_mirrored_images_have_mirrored_joints(trained_predictor, photographs):
    """With the trained model, to a thousandth of a millimetre; a batch of hands equals each hand alone."""
    images = [read_image(photographs / "images" / f"{i}.png") for i in range(3)]
    images += [np.tile(images[1], (1, 2, 1))[:, :101]]
    boxes = [None, [10, 12, 50, 60], [[5, 3, 61, 70], [8.25, 9.5, 40, 33]], [20, 5, 90, 60]]
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    flip = lambda box, width: np.array(box)[..., [2, 1, 0, 3]] * [-1, 1, -1, 1] + np.array([1, 0, 1, 0]) * (width - 1)  # noqa: E731
    flipped = [None if box is None else flip(box, image.shape[1]) for box, image in zip(boxes, images)]
    one, two = trained_predictor(images, boxes, "right"), trained_predictor(mirrored, flipped, "left")
    assert one["image"].tolist() == [0, 1, 2, 2, 3]
    np.testing.assert_allclose(two["keypoints_3d"] * [-1, 1, 1], one["keypoints_3d"], atol=1e-3)
    widths = np.array([images[i].shape[1] for i in one["image"]])[:, None]
    np.testing.assert_allclose(widths - 1 - two["keypoints_2d"][..., 0], one["keypoints_2d"][..., 0], atol=1e-3)
    assert np.ptp(one["keypoints_3d"], axis=0).max() > 1  # the hands differ
    alone = trained_predictor(images[2], boxes[2][1])
    np.testing.assert_allclose(alone["keypoints_3d"][0], one["keypoints_3d"][3], atol=0.02)


def test_mirrored_images_have_mirrored_meshes(monkeypatch, photographs):
    """With a tiny HaMeR, to a thousandth of a millimetre; pose and shape are those of the mirrored hand."""
    sizes = [
        "data.image_size=64",
        "data.crop_scale=2",
        "data.crop_rule=hamer",
        "model.vit.width=32",
        "model.vit.depth=1",
    ]
    sizes += ["model.vit.heads=2", "model.hamer.width=32", "model.hamer.depth=1", "model.hamer.heads=2"]
    config, toy = load(None, ["model.name=hamer", *sizes]), hamer_models.toy_hand()
    graphdef, params, rest = nnx.split(hamer_models.build(Hamer, config, toy), nnx.Param, ...)
    best = types.SimpleNamespace(config=config, params=nnx.to_pure_dict(params), rest=nnx.to_pure_dict(rest))
    tester = types.SimpleNamespace(device_mesh=make_mesh(), graphdef=graphdef)
    monkeypatch.setattr(predictor, "load_best", lambda workdir: (tester, best))
    monkeypatch.setattr(predictor.hand, "load", lambda config: toy)
    read = predictor.Predictor("run")
    image = read_image(photographs / "images" / "0.png")
    boxes = np.array([[10.0, 12, 50, 60], [3, 4, 40, 30.5]])
    K = np.array([[90.0, 0, 30], [0, 90, 33], [0, 0, 1]])
    mirrored_K = np.array([[90.0, 0, 63 - 30], [0, 90, 33], [0, 0, 1]])
    one = read(image, boxes, "right", K)
    two = read(
        np.ascontiguousarray(image[:, ::-1]),
        boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [63, 0, 63, 0],
        "left",
        mirrored_K,
    )
    for key in ("keypoints_3d", "vertices", "camera_translation"):
        np.testing.assert_allclose(two[key] * [-1, 1, 1], one[key], atol=1e-3)
    np.testing.assert_allclose(two["mano_pose"] * np.tile([1, -1, -1], 16), one["mano_pose"], atol=1e-6)
    np.testing.assert_allclose(two["mano_shape"], one["mano_shape"], atol=1e-6)
    np.testing.assert_array_equal(two["faces"], one["faces"][..., ::-1])
    assert np.ptp(one["vertices"], axis=0).max() > 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"path": None}, "a run must be given by the path of its folder, such as 'runs/quickstart', got None"),
        ({"path": 3}, "a run must be given by the path of its folder"),
        ({"path": "run", "batch_size": "a"}, "batch_size must be a power of two, such as 32, got 'a'"),
        ({"path": "run", "batch_size": 2.0}, "batch_size must be a power of two, such as 32, got 2.0"),
        ({"path": "run", "batch_size": None}, "batch_size must be a power of two, such as 32, got None"),
    ],
)
def test_load_names_a_wrong_argument(arguments, line):
    with pytest.raises(UserError, match=line):
        jaxhand.load(**arguments)


def test_load_expands_the_home_folder(trained, monkeypatch):
    monkeypatch.setenv("HOME", str(trained.workdir.parent))
    assert jaxhand.load(f"~/{trained.workdir.name}").model == "dense"


def test_load_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        jaxhand.load(tmp_path / "no")


def test_importing_jaxhand_is_light():
    code = "import sys, jaxhand; print(jaxhand.load.__name__, 'jax' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "load False False\n"
