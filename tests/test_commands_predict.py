"""`predict` with the tiny run and with a mesh model: what it prints and writes, and its errors."""

import json
import types

import cv2
import numpy as np
import pytest
import trimesh

from jaxhand import config as configs
from jaxhand import predict
from jaxhand.hand import mesh_files
from jaxhand.hand.builtin import surface
from jaxhand.hand.skeleton import JOINT_NAMES
from jaxhand.inference import image_files, output, predictor
from jaxhand.models.hamer import Hamer
from jaxhand.training import step
from jaxhand.training.sharding import make_mesh
from tests.support import hamer_models
from tests.support.predict_command import read_joints, refused


def arrays(hand):
    return np.array(hand["joints_2d"]), np.array(hand["joints_3d"])


def test_one_hand_per_image(finished, photographs, call):
    images = [photographs / "images" / f"{i}.png" for i in range(3)]
    code, output, errors = call(predict.main, finished, *images)
    assert (code, errors) == (0, "")
    folder = finished / "predictions"
    content = json.loads((folder / "joints.json").read_text())
    assert content["joint_names"] == list(JOINT_NAMES) and "mm" in content["units"]
    for hand, image in zip(content["hands"], images, strict=True):
        assert hand["image"] == str(image) and hand["hand"] == "right" and "score" not in hand
        assert np.shape(hand["joints_2d"]) == (21, 2) and np.shape(hand["joints_3d"]) == (21, 3)
        overlay = cv2.imread(str(folder / hand["overlay"]))
        assert overlay.shape == (512, 512, 3)
        assert f"{image} -> {folder / hand['overlay']}" in output
        pixels = np.array(hand["joints_3d"]) @ np.array(hand["K"]).T  # 2D is the projection of 3D
        np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], hand["joints_2d"], atol=0.1)
    assert f"3 hands of 3 images -> {folder / 'joints.json'}" in output
    assert "the camera of 3 images is not known" in output  # so distances are a guess
    ends = (".glb", ".obj", "_joints.png", "_mesh.png")  # the model has no mesh: that of a hand model is fitted
    assert sorted(path.name for path in folder.iterdir()) == [f"{i}{end}" for i in range(3) for end in ends] + [
        "joints.json"
    ]
    assert {hand["mesh"] for hand in content["hands"]} == {"fitted"}


def test_a_left_hand(finished, photographs, call, tmp_path):
    """A mirrored image with `--hand left` has the mirrored prediction."""
    path, mirrored = photographs / "images" / "4.png", tmp_path / "left.png"
    image = cv2.imread(str(path))
    cv2.imwrite(str(mirrored), image[:, ::-1])
    width = image.shape[1]
    for bbox, mirrored_bbox in (((), ()), ((10, 12, 50, 60), (width - 1 - 50, 12, width - 1 - 10, 60))):
        joints = {}
        for hand, source, box in (("right", path, bbox), ("left", mirrored, mirrored_bbox)):
            box = ("--bbox", *box) if box else ()
            assert call(predict.main, finished, source, "--hand", hand, *box, "--out", tmp_path / hand)[0] == 0
            [found] = read_joints(tmp_path / hand)
            joints[hand] = arrays(found)
        (pixels, points), (left_pixels, left_points) = joints["right"], joints["left"]
        mirrored_pixels = np.stack([width - 1 - pixels[:, 0], pixels[:, 1]], axis=1)
        np.testing.assert_allclose(left_pixels, mirrored_pixels, atol=0.011)  # the file has two digits
        np.testing.assert_allclose(left_points, points * [-1, 1, 1], atol=0.011)


def test_images_of_the_same_name(finished, photographs, call, tmp_path):
    paths = []
    for i, name in enumerate(["a/hand.png", "b/hand.png", "b/hand.jpg", "c/hand_2.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), cv2.imread(str(photographs / "images" / f"{i}.png")))
        paths.append(path)
    assert call(predict.main, finished, *paths)[0] == 0
    hands = read_joints(finished / "predictions")
    overlays = [hand["overlay"] for hand in hands]
    assert len(set(overlays)) == 4 and all((finished / "predictions" / name).is_file() for name in overlays)
    assert [hand["image"] for hand in hands] == [str(path) for path in paths]


def test_more_images_than_are_read_at_once(finished, photographs, call, monkeypatch):
    """The order is kept, and each prediction equals that of the image alone."""
    monkeypatch.setattr(image_files, "IMAGES_IN_MEMORY", 4)
    images = [photographs / "images" / f"{i}.png" for i in range(11)]
    assert call(predict.main, finished, *images)[0] == 0
    together = read_joints(finished / "predictions")
    assert call(predict.main, finished, images[9], "--out", finished / "alone")[0] == 0
    [alone] = read_joints(finished / "alone")
    for one, other in zip(arrays(together[9]), arrays(alone)):
        np.testing.assert_allclose(one, other, atol=0.02)


def test_boxes_of_several_hands_per_image(finished, photographs, call, tmp_path):
    """Hands from a file of boxes; joints.json is such a file again, and leads to the same predictions."""
    K = [[90.0, 0, 30], [0, 91.0, 33], [0, 0, 1]]
    image, other, empty = (photographs / "images" / f"{i}.png" for i in (1, 2, 3))
    entries = [
        {"image": str(image), "bbox": [4, 5, 50, 55], "hand": "left", "K": K},
        {"image": str(other), "bbox": [10.5, 8.25, 61, 50]},
        {"image": str(image), "bbox": [20, 15, 60, 63], "K": K},
    ]
    boxes = tmp_path / "boxes.jsonl"
    boxes.write_text("\n".join(map(json.dumps, entries)))
    code, output, errors = call(predict.main, finished, image, empty, other, "--boxes", boxes, "--K", 70, 71, 31, 32)
    assert (code, errors) == (0, "") and f"{empty}: no hand" in output and "camera" not in output
    found = read_joints(finished / "predictions")
    asked = [entries[0], entries[2], entries[1]]
    for hand, entry in zip(found, asked, strict=True):
        assert hand["image"] == entry["image"] and hand["bbox"] == entry["bbox"]
        assert hand["hand"] == entry.get("hand", "right")
        assert hand["K"] == entry.get("K", [[70, 0, 31], [0, 71, 32], [0, 0, 1]])
    assert found[0]["overlay"] == found[1]["overlay"] != found[2]["overlay"]
    assert call(predict.main, finished, "--boxes", finished / "predictions" / "joints.json", "--out", tmp_path)[0] == 0
    assert [{**hand, "image": ""} for hand in read_joints(tmp_path)] == [{**hand, "image": ""} for hand in found]


TOY_DETECTOR = """
def detect(image):
    return [{"bbox": (3, 4, 40, 50), "hand": "left", "score": 0.75}] * int(image[0, 0, 0])
def fails(image):
    return [] if image[0, 0, 0] == 0 else [1 / 0]
"""


def test_a_detector_of_the_user(finished, photographs, call, tmp_path, monkeypatch):
    (tmp_path / "toy_detector.py").write_text(TOY_DETECTOR)
    monkeypatch.chdir(tmp_path)
    for count in range(3):
        image = cv2.imread(str(photographs / "images" / "0.png"))
        image[0, 0] = count
        cv2.imwrite(f"{count}.png", image)
    arguments = ("0.png", "1.png", "2.png", "--detector", "toy_detector:detect", "--focal", 80)
    code, output, errors = call(predict.main, finished, *arguments)
    assert (code, errors) == (0, "") and "0.png: no hand" in output
    found = read_joints(finished / "predictions")
    assert [hand["image"] for hand in found] == ["1.png", "2.png", "2.png"]
    assert all(hand["hand"] == "left" and hand["score"] == 0.75 and hand["K"][1][1] == 80 for hand in found)
    code, output, errors = call(predict.main, finished, "0.png", "1.png", "--detector", "toy_detector:fails")
    assert code == 1 and "0.png: no hand" in output
    first, second = errors.splitlines()
    assert first == "1 images or hands are left out:"
    assert second.startswith("  1.png: detector toy_detector:fails failed: ZeroDivisionError")


def test_depth_is_read(finished, photographs, call):
    images, depths = ([photographs / "images" / f"{i}{of}.png" for i in (5, 6)] for of in ("", "_depth"))
    assert call(predict.main, finished, *images)[0] == 0
    without = [arrays(hand)[1] for hand in read_joints(finished / "predictions")]
    assert call(predict.main, finished, *images, "--depth", *depths)[0] == 0
    for hand, other, file in zip(read_joints(finished / "predictions"), without, depths):
        points = arrays(hand)[1]
        assert np.abs(points - other).max() > 1
        depth = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        assert depth[depth > 0].min() - 200 < points[:, 2].mean() < np.median(depth[depth > 0]) + 200


def test_the_kinds_of_mesh_files():
    assert predict.MESH_KINDS == tuple(mesh_files.KINDS)


@pytest.fixture
def mesh_model(monkeypatch):
    """A mesh model with random parameters, loaded from any run folder."""
    sizes = [
        "data.image_size=64",
        "model.vit.width=32",
        "model.vit.depth=1",
        "model.vit.heads=2",
        "data.crop_rule=hamer",
    ]
    sizes += ["model.hamer.width=32", "model.hamer.depth=1", "model.hamer.heads=2", "model.hamer.head_width=16"]
    config = configs.load(None, ["model.name=hamer", *sizes])
    model = hamer_models.build(Hamer, config, surface.builtin())
    state = step.EvalModel._split(model)
    best = types.SimpleNamespace(config=config, params=state["params"], rest=state["batch_stats"])
    monkeypatch.setattr(predictor, "load_best", lambda workdir: (step.EvalModel(config, make_mesh()), best))
    return config


def test_a_fitted_mesh(finished, photographs, call, tmp_path):
    """Closed and around the joints, in the kind that is asked for; with `--mesh none` neither files nor a picture."""
    image = photographs / "images" / "0.png"
    for kind, names in (("obj", {"0.obj", "0_mesh.png"}), ("none", set())):
        folder = tmp_path / kind
        code, _, errors = call(predict.main, finished, image, "--hand", "left", "--mesh", kind, "--out", folder)
        assert (code, errors) == (0, "")
        assert {path.name for path in folder.iterdir()} == names | {"0_joints.png", "joints.json"}
        [hand] = read_joints(folder)
        assert hand.get("mesh") == ("fitted" if names else None)
    mesh = trimesh.load_mesh(tmp_path / "obj" / "0.obj")
    mesh = trimesh.Trimesh(mesh.vertices, mesh.faces)
    assert mesh.is_watertight and mesh.volume > 0
    low, high = mesh.bounds
    assert ((arrays(hand)[1].mean(0) > low) & (arrays(hand)[1].mean(0) < high)).all()


@pytest.mark.parametrize("kinds", [(), ("--mesh", "obj"), ("--mesh", "none")])
def test_meshes(mesh_model, photographs, call, tmp_path, kinds):
    """Two hands in one file, watertight and outward, around their joints; GLB in metres with y up."""
    image = photographs / "images" / "0.png"
    entries = [{"image": str(image), "bbox": [4, 5, 40, 45], "hand": side} for side in ("right", "left")]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    code, _, errors = call(predict.main, tmp_path, "--boxes", tmp_path / "boxes.json", "--focal", 90, *kinds)
    assert (code, errors) == (0, "")
    folder = tmp_path / "predictions"
    hands = read_joints(folder)
    assert cv2.imread(str(folder / hands[0]["mesh_overlay"])).shape == (512, 512, 3) and "mesh" not in hands[0]
    written = {"obj", "glb"} if not kinds else {kinds[1]} - {"none"}
    assert {key for key in ("obj", "glb") if key in hands[0]} == written
    assert len(list(folder.iterdir())) == 3 + len(written)
    for kind in written:
        meshes = trimesh.load_scene(folder / hands[0][kind], **({"split_objects": True} if kind == "obj" else {}))
        assert sorted(meshes.geometry) == ["left_1", "right_0"]
        for name, mesh in meshes.geometry.items():
            hand = hands[int(name[-1])]
            mesh = trimesh.Trimesh(mesh.vertices, mesh.faces)
            assert mesh.is_watertight and 5e4 < mesh.volume * (1e9 if kind == "glb" else 1) < 1e6  # mm3
            points = np.array(hand["joints_3d"]) * ([1e-3, -1e-3, -1e-3] if kind == "glb" else 1)
            low, high = mesh.bounds
            size = (high - low).max()
            assert (points > low - 0.05 * size).all() and (points < high + 0.05 * size).all()
    right, left = hands
    mirror = np.tile([1, -1, -1], 16)
    assert np.shape(right["mano_pose"]) == (48,) and np.shape(left["mano_shape"]) == (10,)
    assert np.sign(right["mano_pose"]) @ (np.sign(left["mano_pose"]) * mirror) > 30  # the crops differ only a little
    assert np.shape(right["camera_translation"]) == (3,)


def test_a_second_call_adds_and_replaces(finished, photographs, call, tmp_path):
    """By the name of the image; its files keep their names, and those of other images are not written over."""
    folder, image = finished / "predictions", photographs / "images" / "0.png"
    (tmp_path / "a").mkdir()
    other = tmp_path / "a" / "0.png"
    cv2.imwrite(str(other), cv2.imread(str(photographs / "images" / "1.png")))
    assert call(predict.main, finished, image)[0] == 0
    first = (folder / "joints.json").read_text()
    [before] = read_joints(folder)
    picture = (folder / before["overlay"]).read_bytes()
    code, output, _ = call(predict.main, finished, other)
    assert code == 0 and "1 hands of 1 images" in output and "(it has 2 hands, with those from before)" in output
    old, new = read_joints(folder)
    assert old == before and new["image"] == str(other) and new["overlay"] == "0_2_joints.png"
    assert (folder / before["overlay"]).read_bytes() == picture
    assert call(predict.main, finished, other, image)[0] == 0  # both once more
    assert read_joints(folder)[0]["overlay"] == "0_2_joints.png" and len(read_joints(folder)) == 2
    assert len(list(folder.glob("*_joints.png"))) == 2
    assert json.loads(first) == json.loads(json.dumps(json.loads(first), indent=1))
    assert first == json.dumps(json.loads(first), indent=1) + "\n"  # the layout of the file, as before


@pytest.mark.parametrize("content", ['{"hands": [', "[]", '{"hands": [{}]}', "[" * 100_000])
def test_another_joints_json_is_not_written_over(finished, photographs, call, content):
    path = finished / "predictions" / "joints.json"
    path.parent.mkdir()
    path.write_text(content)
    assert f"{path}: damaged, or not written by" in refused(call, finished, photographs / "images" / "0.png")
    assert path.read_text() == content


def test_results_are_written_as_they_come(finished, photographs, call, monkeypatch):
    """joints.json is complete after each image while writing it takes little of the time."""
    seen = []
    add = output.PredictionWriter.add

    def watched(writer, prediction):
        add(writer, prediction)
        seen.append(len(read_joints(writer.folder)))
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(output.PredictionWriter, "add", watched)
    code, _, _ = call(predict.main, finished, *(photographs / "images" / f"{i}.png" for i in range(5)))
    assert code == 130 and seen[0] == 1 and len(read_joints(finished / "predictions")) == 3


def test_a_doubtful_camera(finished, photographs, call):
    """A focal length in mm is refused, and so is K in 0..1; a principal point outside the image is only said."""
    image = photographs / "images" / "0.png"
    assert "fx 7, fy 7, " in refused(call, finished, image, "--focal", 7)
    assert "in mm instead of px" in refused(call, finished, image, "--focal", 7)
    assert "in 0..1 instead of px" in refused(call, finished, image, "--K", 1.4, 1.4, 0.5, 0.5)
    assert "focal length too" in refused(call, finished, image, "--K", 1e-9, 1e-9, 32, 32)
    code, output, errors = call(predict.main, finished, image, "--K", 80, 80, 32, 400)
    assert (code, errors) == (0, "") and f"doubtful camera of 1 images; of {image}: K (fx 80" in output


def test_an_image_that_is_named_twice_is_predicted_once(finished, photographs, call, monkeypatch):
    folder = photographs / "images"
    monkeypatch.chdir(folder)
    names = [folder / "1.png", "1.png", folder / "0.png", "../images/1.png"]
    code, output, errors = call(predict.main, finished, *names)
    assert (code, errors) == (0, "") and "2 hands of 2 images" in output
    assert output.splitlines()[0] == "4 images are named, 2 of them different: 1.png is predicted once"
    assert [hand["image"] for hand in read_joints(finished / "predictions")] == [str(names[0]), str(names[2])]


def test_a_folder_of_images(finished, photographs, call, tmp_path):
    for i, name in enumerate(("b.PNG", "a.png")):
        cv2.imwrite(str(tmp_path / name), cv2.imread(str(photographs / "images" / f"{i}.png")))
    (tmp_path / "notes.txt").write_text("no image")
    assert call(predict.main, finished, tmp_path, "--out", tmp_path / "out")[0] == 0
    assert [hand["image"] for hand in read_joints(tmp_path / "out")] == [str(tmp_path / n) for n in ("a.png", "b.PNG")]
    (tmp_path / "empty").mkdir()
    assert "empty: no images in this folder" in refused(call, finished, tmp_path / "empty")


def test_the_home_folder(finished, photographs, call, monkeypatch):
    monkeypatch.setenv("HOME", str(finished.parent))
    image = photographs / "images" / "0.png"
    assert call(predict.main, f"~/{finished.name}", image, "--out", "~/out")[0] == 0
    assert len(read_joints(finished.parent / "out")) == 1
