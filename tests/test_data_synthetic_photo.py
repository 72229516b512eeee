"""The photograph-like set: one image for one index, parts that change nothing else, labels on the hand, backgrounds."""

import dataclasses
import json

import cv2
import jax
import numpy as np
import pytest

from jaxhand import data
from jaxhand.config import UserError
from jaxhand.data import pipeline
from jaxhand.data.synthetic import camera_effects, dataset, grasp, photo, photo_preview, photo_render, photo_scene
from jaxhand.data.synthetic.photo_scene import PARTS
from jaxhand.hand.camera import project
from tests.support.numbers import assert_summary

SIZE, COUNT = 64, 48
ALL = frozenset(PARTS)
GEOMETRY = ("K", "keypoints_3d", "pose", "shape", "turn", "left")


def rendered_without(*parts: str, count: int = 4, folder: str = ""):
    return photo_render.render_range(0, 0, count, size=SIZE, parts=ALL - set(parts), folder=folder, exact=True)


@pytest.fixture(scope="module")
def rendered():
    """Photographs with all parts and the masks of their hands."""
    return photo_render.render_range(0, 0, COUNT, size=SIZE, exact=True)


def sampled(parts):
    """All scenes, in the chunks that rendering uses: the same compiled programs."""
    chunks = [photo_scene.sample(0, start + np.arange(16), parts) for start in range(0, COUNT, 16)]
    return jax.tree.map(lambda *fields: np.concatenate(fields), *chunks)


@pytest.fixture(scope="module")
def scenes():
    return sampled(ALL)


def test_a_photograph_is_a_function_of_seed_and_index(rendered):
    again = photo_render.render_range(0, 30, 5, size=SIZE)
    for key, value in again.items():
        np.testing.assert_array_equal(value, rendered[key][30:35], err_msg=key)
    other = photo_render.render_range(1, 30, 1, size=SIZE)
    assert np.abs(other["pose"] - again["pose"][:1]).max() > 0.01
    assert len(np.unique(rendered["image"].reshape(COUNT, -1), axis=0)) == COUNT
    assert 0.3 < rendered["left"].mean() < 0.7


@pytest.mark.parametrize("part", ["occluders", "backgrounds", "lighting", "skin", "clothing", "camera"])
def test_a_part_of_the_picture_changes_no_label(rendered, part):
    without = rendered_without(part)
    for key in GEOMETRY:
        np.testing.assert_array_equal(without[key], rendered[key][:4], err_msg=key)
    assert part == "occluders" or (without["mask"] == rendered["mask"][:4]).all()
    assert part in ("occluders", "clothing") or (without["image"] != rendered["image"][:4]).mean((1, 2, 3)).min() > 0.05


def test_parts_change_their_own_pixels_alone():
    """With a perfect camera, whose blur mixes nothing: the background, then the skin."""
    base = rendered_without("camera")
    hand = base["mask"] == 1
    other = rendered_without("camera", "backgrounds")
    np.testing.assert_array_equal(other["image"][hand], base["image"][hand])
    assert (other["image"] != base["image"])[~hand].mean() > 0.5
    other = rendered_without("camera", "skin")
    changed = (other["image"] != base["image"]).any(-1)
    assert changed[hand].mean() > 0.5
    nothing = base["depth"] > base["depth"][hand].max() + 100  # the wall, far behind all hands and things
    assert not changed[nothing].any()


def test_a_part_of_the_scene_leaves_the_others(scenes):
    without = sampled(ALL - {"objects"})
    empty_handed = scenes.solid.kind == grasp.NOTHING
    assert 0.5 < empty_handed.mean() < 0.95 and (without.solid.kind == grasp.NOTHING).all()
    np.testing.assert_allclose(without.hand.pose[empty_handed], scenes.hand.pose[empty_handed], atol=1e-6)
    assert (np.abs(without.hand.pose - scenes.hand.pose).max(1)[~empty_handed] > 1e-3).all()
    np.testing.assert_allclose(without.hand.frames[:, 0], scenes.hand.frames[:, 0], atol=1e-6)
    np.testing.assert_array_equal(without.has_other, scenes.has_other)
    np.testing.assert_array_equal(without.is_left, scenes.is_left)


def test_fingers_touch_what_they_hold(scenes):
    held = np.flatnonzero(scenes.solid.kind != grasp.NOTHING)
    cones = scenes.hand.cones
    place = np.linspace(0, 1, 9)[:, None, None]
    for i in held:
        points = cones.start[i, :15] * (1 - place) + cones.end[i, :15] * place
        radius = cones.start_radius[i, :15] * (1 - place[..., 0]) + cones.end_radius[i, :15] * place[..., 0]
        solid = jax.tree.map(lambda field: field[i], scenes.solid)
        gap = np.asarray(grasp.distance_to(solid, points)) - radius
        assert gap.min() > -6.0  # mm; the skin gives way
        assert (gap.min(0).reshape(5, 3).min(1) < 6.0).sum() >= 1  # the next step of a closing finger would touch


def test_joints_project_onto_the_hand(rendered):
    uv = np.rint(project(rendered["keypoints_3d"], rendered["K"])).astype(int)
    assert (uv >= 0).all() and (uv < SIZE).all()
    # Things and the second hand may cover joints: their pixels are not in the mask.
    hit = np.array([mask[v, u] for mask, (u, v) in zip(rendered["mask"], uv.transpose(0, 2, 1))]) == 1
    for left in (0, 1):
        assert hit[rendered["left"] == left].mean() > 0.75
    flipped = np.array([mask[v, SIZE - 1 - u] for mask, (u, v) in zip(rendered["mask"], uv.transpose(0, 2, 1))])
    assert flipped.mean() < hit.mean() - 0.2


def test_depth_is_that_of_the_skin(rendered):
    joints = rendered["keypoints_3d"]
    for i in range(8):
        depth = rendered["depth"][i][rendered["mask"][i] == 1].astype(float)
        assert joints[i, :, 2].min() - 40 < np.median(depth) < joints[i, :, 2].max() + 20


def test_the_cameras_faults_do_not_move_the_hand():
    light = np.full((SIZE, SIZE, 3), 0.02, np.float32)
    light[30:33, 30:33] = 1.0
    v, u = np.mgrid[:SIZE, :SIZE]
    near = (abs(v - 31) < 10) & (abs(u - 31) < 10)
    for seed in range(40):
        image = camera_effects.develop(np.random.default_rng(seed), light).astype(float).sum(-1)
        weight = np.clip(image - np.percentile(image[near], 60), 0, None) ** 2 * near
        assert np.hypot((weight * v).sum() / weight.sum() - 31, (weight * u).sum() / weight.sum() - 31) < 0.6, seed


def test_records_have_boxes_sides_and_meshes(rendered):
    hands = photo.PhotoSet(rendered, "here", mesh=True)
    grown = [cv2.dilate(mask, np.ones((3, 3))) for mask in rendered["mask"]]
    inside = {"left": [], "right": []}
    for i in range(16):
        hand = hands[i]
        assert hand.hand == ("left" if rendered["left"][i] else "right") and hand.mesh == "builtin"
        uv = project(hand.keypoints_3d, hand.K)
        assert (uv > hand.bbox[:2]).all() and (uv < hand.bbox[2:]).all()
        u, v = np.rint(project(hand.vertices, hand.K)).astype(int).clip(0, SIZE - 1).T
        inside[hand.hand].append(grown[i][v, u].mean())
        nearest = np.linalg.norm(hand.vertices[:, None] - hand.keypoints_3d, axis=-1).min(0)
        assert nearest.max() < 40
    assert np.mean(inside["left"]) > 0.75 and np.mean(inside["right"]) > 0.75


def test_own_photographs_as_backgrounds(tmp_path):
    folder = tmp_path / "walls" / "green"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), np.full((80, 120, 3), (0, 200, 0), np.uint8))
    (tmp_path / "walls" / "notes.txt").write_text("no image")
    images = rendered_without("camera", "lighting", "occluders", folder=str(tmp_path / "walls"))["image"]
    corner = images[:, 0, 0].astype(int)
    assert ((corner[:, 1] > 40) & (corner[:, 0] < 15) & (corner[:, 2] < 15)).any()


@pytest.mark.parametrize("content", ["missing", "empty", "damaged"])
def test_a_wrong_background_folder_is_one_line(tmp_path, content):
    folder = tmp_path / content
    if content != "missing":
        folder.mkdir()
    if content == "damaged":
        (folder / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"data\.photo\.backgrounds: [^\n]*" + content):
        photo.load("train", 1, size=SIZE, background_folder=str(folder), cache=tmp_path / "c", progress=print)


@pytest.mark.parametrize("wrong", [dict(split="dev"), dict(count=0), dict(size=16), dict(without=["hair"])])
def test_wrong_arguments_name_the_right_ones(wrong, tmp_path):
    arguments = dict(split="train", count=4, size=SIZE, cache=tmp_path) | wrong
    with pytest.raises(UserError, match="synthetic"):
        photo.load(arguments.pop("split"), arguments.pop("count"), **arguments)


def test_it_mixes_with_photographs(rendered, tiny, tmp_path):
    lines = []
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rendered["image"][i])
        labels = {"K": rendered["K"][i].tolist(), "joints_3d": rendered["keypoints_3d"][i].tolist()}
        lines.append(json.dumps({"image": f"{i}.png", "hand": "right"} | labels))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    photo_config = dataclasses.replace(tiny.data.photo, without=("clothing",))
    settings = dict(image_size=SIZE, train_samples=16, cache=str(tmp_path), crop_rule="mediapipe", photo=photo_config)
    config = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, **settings))
    source = data.load({"synthetic-photo": 1.0, f"folder:{tmp_path}": 1.0}, "train", config.data, 0)
    batch = next(pipeline.train_iterator(source, config))
    assert batch["image"].shape[1:] == (SIZE, SIZE, 3) and np.isfinite(batch["keypoints_2d"]).all()
    assert [file for file in tmp_path.iterdir() if "-no_clothing-" in file.name]
    with pytest.raises(UserError, match="synthetic-photo takes no path"):
        data.load("synthetic-photo:/x", "train", config.data, 0)


def test_the_cache_is_read_again(tmp_path, monkeypatch):
    options = dict(size=SIZE, cache=tmp_path, progress=lambda line: None)
    first = photo.load("val", 3, **options)
    monkeypatch.setattr(photo_render, "render_range", None)
    again = photo.load("val", 3, **options)
    for key, value in first.arrays.items():
        np.testing.assert_array_equal(again.arrays[key], value)
    assert dataset.FIRST_INDEX["val"] and again[0].name == "synthetic-photo-val/0"


def test_a_preview_is_written_or_refused_in_one_line(tmp_path, capsys):
    arguments = ["--size", str(SIZE), "--count", "2", "--columns", "2"]
    assert photo_preview.main(["--preview", str(tmp_path / "sheet.png"), *arguments]) == 0
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] > 2 * SIZE
    capsys.readouterr()
    assert photo_preview.main(["--preview", "x.png", "--without", "hair"]) == 2
    assert capsys.readouterr().err.startswith("error: the data set synthetic-photo has the parts poses, ")


# Photographs of seed 0: their scenes, then their labels and pictures
SCENES = {
    "hand.pose": [0.430283, 0.455845, -0.0676811],
    "hand.shape": [0.0805168, 0.775086, 1.67675],
    "hand.joints": [167.653, 239.032, -325.474],
    "hand.frames": [-0.0680962, 0.492601, -0.0923966],
    "hand.cones.start": [178.368, 241.162, -89.8694],
    "hand.cones.end": [177.186, 248.141, -67.194],
    "hand.cones.start_radius": [11.04, 11.04, -6.49381],
    "hand.cones.end_radius": [10.3937, 10.3937, -8.07511],
    "hand.window": [0.200737, 0.323908, 0.949148],
    "hand.skin": [0.288628, 0.288628, -0.140282],
    "hand.sleeve": [0.497873, 0.497873, 0.322721],
    "hand.nails": [0.0524155, 0.0524155, 0.0249681],
    "hand.light": [-0.293902, 0.517137, -0.770025],
    "hand.light_color": [0.995069, 0.995069, 0.930114],
    "hand.ambient": [0.431415, 0.431415, 0.0816017],
    "hand.object_start": [200.073, 218.555, 746.47],
    "hand.object_end": [194.693, 220.349, 805.22],
    "hand.object_radius": [17.4183, 17.4183, 8.75498],
    "hand.object_axes": [-0.0564933, 0.500641, 0.847283],
    "hand.object_half_size": [24.6802, 24.6802, -21.572],
    "hand.object_kind": [0.375, 0.375, -0.00963575],
    "hand.object_color": [0.297038, 0.297038, -0.318537],
    "hand.wall": [206.649, 206.731, -543.182],
    "hand.wall_color": [0.398004, 0.398004, 0.441644],
    "hand.wall_pattern": [0.254327, 2.08901, 2.55231],
    "hand.clutter": [3.8893, 4.03426, -8.54692],
    "hand.clutter_color": [0.401582, 0.401582, -0.310968],
    "hand.blur": [0.108144, 0.108144, 0.0374988],
    "hand.grain": [0.0151659, 0.0151659, 0.0018159],
    "hand.sensor": [0.742424, 1.02434, -2.55437],
    "hand.holes": [0.0120013, 0.164518, -0.183568],
    "hand.salt": [7867760.0, 7867760.0, 5338980.0],
    "other.pose": [0.414374, 0.435058, 0.291841],
    "other.shape": [0.0805168, 0.775086, 1.67675],
    "other.joints": [176.391, 259.118, -436.804],
    "other.frames": [-0.0610142, 0.495442, -0.573091],
    "other.cones.start": [186.585, 260.195, -209.034],
    "other.cones.end": [185.902, 267.16, -156.356],
    "other.cones.start_radius": [11.04, 11.04, -6.49381],
    "other.cones.end_radius": [10.3937, 10.3937, -8.07511],
    "other.window": [0.200737, 0.323908, 0.949148],
    "other.skin": [0.288628, 0.288628, -0.140282],
    "other.sleeve": [0.523237, 0.523237, 0.808623],
    "other.nails": [0.0558285, 0.0558285, 0.00027919],
    "other.light": [-0.313048, 0.51018, -0.910377],
    "other.light_color": [0.990044, 0.990044, 0.679741],
    "other.ambient": [0.423123, 0.423123, 0.109863],
    "other.object_start": [193.852, 219.945, 761.376],
    "other.object_end": [195.227, 221.876, 766.065],
    "other.object_radius": [14.9778, 14.9778, 11.1577],
    "other.object_axes": [-0.0180407, 0.504134, 0.641982],
    "other.object_half_size": [24.3863, 24.3863, 4.20244],
    "other.object_kind": [0.395833, 0.395833, 0.0815207],
    "other.object_color": [0.356301, 0.356301, -0.130906],
    "other.wall": [210.943, 211.05, -774.133],
    "other.wall_color": [0.376953, 0.376953, 0.293366],
    "other.wall_pattern": [-0.070284, 1.93679, -5.11168],
    "other.clutter": [3.95418, 4.0961, -0.942051],
    "other.clutter_color": [0.397087, 0.397087, -0.76773],
    "other.blur": [0.11535, 0.11535, 0.0447267],
    "other.grain": [0.0185573, 0.0185573, 0.0180495],
    "other.sensor": [0.72034, 0.957254, -0.739239],
    "other.holes": [0.0168153, 0.170153, 0.12063],
    "other.salt": [7696370.0, 7696370.0, 11340500.0],
    "has_other": [0.0625, 0.0625, 0.148035],
    "solid.kind": [0.5, 0.5, 0.250414],
    "solid.center": [172.945, 235.297, 680.662],
    "solid.axes": [-0.0666524, 0.486937, -0.651193],
    "solid.half": [36.8556, 36.8556, -2.8295],
    "is_left": [0.479167, 0.479167, 0.382466],
}
PHOTOGRAPHS = {
    "image": [113.866, 113.866, -68.5258],
    "depth": [808.424, 808.424, -198.274],
    "K": [35.27, 36.0591, -85.6698],
    "keypoints_3d": [175.469, 239.032, -347.456],
    "mask": [0.169164, 0.169164, -0.060717],
    "pose": [0.430283, 0.455845, -0.0676811],
    "shape": [0.0805168, 0.775086, 1.67675],
    "turn": [-0.0749945, 0.481583, 0.269412],
    "left": [0.479167, 0.479167, 0.382466],
}
DEVELOPED = [133.805, 133.805, -35.9029]


def test_scenes_of_photographs_stay(scenes):
    leaves = jax.tree.leaves_with_path(scenes)
    fields = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    assert fields.keys() == SCENES.keys()
    for name, leaf in fields.items():
        assert_summary(leaf, SCENES[name])


def test_photographs_stay(rendered):
    assert rendered.keys() == PHOTOGRAPHS.keys()
    for name, array in rendered.items():
        assert_summary(array, PHOTOGRAPHS[name])


def test_the_cameras_faults_stay():
    """Forty photographs of one scene: noise with a bright square."""
    light = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32) ** 2
    light[20:40, 20:40] = 1.5
    images = [camera_effects.develop(np.random.default_rng(seed), light) for seed in range(40)]
    assert_summary(np.array(images), DEVELOPED)
