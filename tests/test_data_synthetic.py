"""The synthetic data set: the same images for the same index, separate splits, labels on the hand, a safe cache."""

import os
import threading
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.synthetic import dataset, render
from jaxhand.hand import skinned
from jaxhand.hand.builtin import surface
from jaxhand.hand.camera import project, unproject
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.io import array_file
from tests.support.numbers import assert_summary

SIZE = 64


@pytest.fixture(scope="module")
def rendered(rendered_hands):
    """64 front views with exact depth and mask."""
    return rendered_hands


@pytest.fixture
def quick(monkeypatch):
    """Rendering replaced by numbers that depend on (seed, index): the cache is tested without a renderer."""
    calls = []

    def chunk(seed, index, size, view):
        calls.append(index[0])
        image = np.broadcast_to(index[:, None, None, None], (len(index), size, size, 3)) % 251
        depth = np.full((len(index), size, size), 500, np.uint16)
        labels = {"K": (3, 3), "keypoints_3d": (21, 3), "pose": (24,), "shape": (10,), "turn": (3, 3)}
        labels = {k: np.ones((len(index), *s), np.float32) for k, s in labels.items()}
        return {"image": image.astype(np.uint8), "depth": depth, **labels}

    monkeypatch.setattr(dataset, "_render_chunk", chunk)
    return calls


def test_a_scene_is_a_function_of_seed_and_index(rendered):
    again = dataset.render_range(0, 32, 40, size=SIZE, view="front")
    for key, value in again.items():
        np.testing.assert_array_equal(value[:32], rendered[key][32:], err_msg=key)
    other = dataset.render_range(1, 0, 1, size=SIZE, view="front")
    assert np.abs(other["pose"] - rendered["pose"][:1]).max() > 0.01


def test_a_users_settings_change_nothing(rendered):
    with jax.enable_x64(True):
        again = dataset.render_range(0, 0, 64, size=SIZE, view="front")
    for key, value in again.items():
        np.testing.assert_array_equal(value, rendered[key], err_msg=key)


def test_splits_never_share_a_scene():
    ranges = sorted((start, start + dataset.MAX_COUNT) for start in dataset.FIRST_INDEX.values())
    assert set(dataset.FIRST_INDEX) == {"train", "val", "test"} and ranges[-1][1] <= 2**32
    assert all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:]))
    sets = [dataset.render_range(0, start, 8, size=SIZE, view="front") for start in dataset.FIRST_INDEX.values()]
    poses = np.concatenate([s["pose"] for s in sets])
    assert len(np.unique(poses, axis=0)) == 24


def test_joints_project_onto_the_hand_and_lie_behind_its_skin(rendered):
    uv = project(rendered["keypoints_3d"], rendered["K"])
    column, row = np.rint(uv).astype(int).transpose(2, 0, 1)
    inside = (0 <= column) & (column < SIZE) & (0 <= row) & (row < SIZE)
    assert inside.mean() > 0.999
    grown = [cv2.dilate((mask > 0).astype(np.uint8), np.ones((3, 3))) for mask in rendered["mask"]]
    hit = [grown[i][row[i][inside[i]], column[i][inside[i]]] for i in range(64)]
    assert np.concatenate(hit).mean() > 0.99
    joint_depth = rendered["keypoints_3d"][..., 2]
    behind = []
    for i in range(64):
        here = inside[i] & (rendered["mask"][i][row[i].clip(0, 63), column[i].clip(0, 63)] == 1)
        behind.append(joint_depth[i][here] - rendered["exact_depth"][i][row[i][here], column[i][here]])
    behind = np.concatenate(behind)
    assert (behind > -3).mean() > 0.99  # no joint is in front of the skin, except where a pixel misses a thin fingertip
    assert (behind < 20).mean() > 0.6  # most are visible; the others are behind another finger or the palm


def test_exact_depth_unprojects_to_the_hands_place(rendered):
    v, u = np.mgrid[:SIZE, :SIZE]
    for i in range(8):
        hand = rendered["mask"][i] == 1
        points = unproject(
            np.stack([u[hand], v[hand]], 1).astype(float), rendered["exact_depth"][i][hand], rendered["K"][i]
        )
        nearest = np.linalg.norm(points[:, None] - rendered["keypoints_3d"][i], axis=-1).min(1)
        assert np.percentile(nearest, 50) < 30


@pytest.mark.parametrize("view", ["front", "all"])
def test_culling_leaves_out_nothing_that_shows(view):
    scenes = dataset.sample_scenes(0, np.arange(16), view)
    culled, whole = (jax.tree.map(np.asarray, render.render(scenes, SIZE, cull=cull)) for cull in (True, False))
    wrong = (culled.mask != whole.mask).sum() / (whole.mask == 1).sum()
    assert wrong < 1e-4
    same = culled.mask == whole.mask
    assert np.abs(culled.exact_depth - whole.exact_depth)[same].max() < 1.5
    assert np.abs(culled.image.astype(int) - whole.image)[same].max() < 26
    assert (np.abs(culled.image.astype(int) - whole.image).max(-1) > 4).mean() < 0.002


def test_a_hand_is_one_piece_without_holes(rendered):
    checked = 0
    for mask in rendered["mask"]:
        if (mask == 2).any():
            continue  # the held object may cut the hand in two
        count, _, stats, _ = cv2.connectedComponentsWithStats((mask == 1).astype(np.uint8), connectivity=8)
        pieces = np.sort(stats[1:, cv2.CC_STAT_AREA])[::-1]
        assert count == 2 or pieces[1:].max() <= 3, pieces  # a fingertip of a pixel or two may be cut off
        checked += 1
    assert checked > 30


def test_some_hands_hold_something(rendered):
    held = [(mask == 2).sum() > 10 for mask in rendered["mask"]]
    assert 0.1 < np.mean(held) < 0.5


def test_the_sensor_measures_walls_too_with_noise_and_holes(rendered):
    sensor, exact, hand = rendered["depth"].astype(float), rendered["exact_depth"], rendered["mask"] > 0
    known = sensor > 0
    assert 0.005 < 1 - known[hand].mean() < 0.2 and 0.002 < 1 - known[~hand & (exact < 4000)].mean() < 0.2
    error = (sensor - exact)[known & hand]
    assert np.median(np.abs(error)) < 6 and 0.5 < np.percentile(np.abs(error - np.median(error)), 50) < 5
    assert (sensor == np.rint(sensor)).all()
    gap = [np.percentile(exact[i][~hand[i]], 10) - np.percentile(exact[i][hand[i]], 90) for i in range(64)]
    assert np.min(gap) < 30 and np.max(gap) > 300  # walls right behind the hand, and far away
    border = [cv2.morphologyEx(h.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0 for h in hand]
    assert (~known)[np.array(border)].mean() > 3 * (~known)[hand & ~np.array(border)].mean()


def test_pictures_are_neither_black_nor_burnt(rendered):
    image, hand = rendered["image"].astype(float), rendered["mask"] == 1
    assert 40 < image[hand].mean() < 180 and 10 < image[hand].mean(1).std()
    skin = image[hand]
    assert (skin[:, 0] >= skin[:, 2]).mean() > 0.75  # skin is redder than blue, except for sleeves and cold light


def test_a_record_crops_to_the_whole_image(rendered, tmp_path):
    hands = dataset.SyntheticSet(rendered, "test", 1.4)
    record = hands[3]
    x0, y0, x1, y1 = record.bbox
    side = 1.4 * max(x1 - x0, y1 - y0)
    np.testing.assert_allclose([(x0 + x1) / 2 - side / 2, (y0 + y1) / 2 + side / 2], [-0.5, SIZE - 0.5], atol=1e-4)
    assert record.image.shape == (SIZE, SIZE, 3) and record.image.dtype == np.uint8 and record.hand == "right"
    assert record.depth.shape == (SIZE, SIZE) and record.depth.dtype == np.float32
    assert record.joint_valid.shape == (21,) and record.K.shape == (3, 3) and record.keypoints_3d.dtype == np.float32
    assert np.shares_memory(record.image, rendered["image"])
    started = time.perf_counter()
    for i in range(640):
        hands[i % 64]
    assert (time.perf_counter() - started) / 640 < 1e-4


def test_odd_sizes_render(tmp_path):
    hands = dataset.render_range(0, 0, 3, size=20, view="front", exact=True)
    assert hands["image"].shape == (3, 20, 20, 3) and (hands["mask"] > 0).any((1, 2)).all()


def test_load_reads_what_it_wrote(quick, tmp_path):
    said = []
    options = dict(size=16, cache=tmp_path / "a" / "b", progress=said.append)
    first = dataset.load("val", 100, **options)
    assert len(first) == 100 and len(quick) == 2 and "rendered 100 hands" in said[0]
    second = dataset.load("val", 100, **options)
    assert len(quick) == 2 and len(said) == 1
    for key, value in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[key], value)
    assert second[99].image[0, 0, 0] == (dataset.FIRST_INDEX["val"] + 99) % 251
    with pytest.raises(ValueError):
        second[0].image[0] = 1  # the file must not change
    assert [p.suffix for p in (tmp_path / "a" / "b").iterdir()] == [".hands"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "header", "foreign", "empty", "grow"])
def test_a_damaged_cache_is_said_and_rendered_again(quick, tmp_path, harm):
    said = []
    options = dict(size=16, cache=tmp_path, progress=said.append)
    dataset.load("train", 10, **options)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    if harm == "truncate":
        data = data[: len(data) // 2]
    elif harm == "flip":
        data[len(data) // 2] ^= 1
    elif harm == "header":
        data[20] ^= 1
    elif harm == "foreign":
        data = bytearray(b"something else, long enough to hold a header")
    elif harm == "empty":
        data = bytearray()
    else:
        data += b"more"
    file.write_bytes(data)
    hands = dataset.load("train", 10, **options)
    assert len(quick) == 2 and hands[9].image[0, 0, 0] == 9
    assert "cannot use cached hands" in said[1] and "\n" not in said[1]
    dataset.load("train", 10, **options)
    assert len(quick) == 2  # repaired


def test_an_unwritable_cache_is_one_line(quick, tmp_path):
    (tmp_path / "file").write_text("no folder")
    said = []
    hands = dataset.load("train", 5, size=16, cache=tmp_path / "file" / "sub", progress=said.append)
    assert len(hands) == 5 and len(said) == 2 and "cannot keep rendered hands" in said[1] and "\n" not in said[1]


def test_a_full_disk_leaves_nothing_behind(quick, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    said = []
    assert len(dataset.load("train", 5, size=16, cache=tmp_path, progress=said.append)) == 5
    assert "No space left on device" in said[1] and not list(tmp_path.iterdir())


def test_two_at_once_do_not_harm_each_other(tmp_path):
    arrays = {"image": np.arange(300_000, dtype=np.uint8).reshape(100, -1), "none": np.zeros((0, 3), np.float32)}
    path = tmp_path / "set.hands"
    writers = [threading.Thread(target=array_file.write, args=(path, arrays)) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    np.testing.assert_array_equal(array_file.read(path)["image"], arrays["image"])
    assert array_file.read(path)["none"].shape == (0, 3) and list(tmp_path.iterdir()) == [path]


def test_other_parameters_are_other_files(quick, tmp_path):
    base = dict(split="train", count=5, size=16, view="front", seed=0)
    for change in ({}, {"split": "val"}, {"count": 6}, {"size": 8}, {"view": "all"}, {"seed": 1}):
        arguments = base | change
        split, count = arguments.pop("split"), arguments.pop("count")
        dataset.load(split, count, **arguments, cache=tmp_path, progress=lambda line: None)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("wrong", [dict(split="dev"), dict(view="side"), dict(count=0), dict(size=4)])
def test_wrong_arguments_name_the_right_ones(wrong):
    arguments = dict(split="train", count=4, size=16, view="front") | wrong
    with pytest.raises(UserError):
        dataset.load(arguments.pop("split"), arguments.pop("count"), **arguments)


def test_preview_is_written_or_refused_in_one_line(quick, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    arguments = ["--size", "16", "--count", "3", "--columns", "2"]
    assert dataset.main(["--preview", str(sheet), *arguments]) == 0
    assert cv2.imread(str(sheet)).shape[0] == 2 * 192 + 4
    for _ in range(2):  # its own files are replaced
        assert dataset.main(["--photographs", str(tmp_path / "images"), *arguments]) == 0
    assert dataset.main(["--preview", str(sheet), *arguments]) == 0
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["hand_0.jpg", "hand_1.jpg", "hand_2.jpg"]
    capsys.readouterr()
    assert dataset.main(["--preview", str(Path(tmp_path) / "no" / "sheet.png"), *arguments]) == 2
    assert dataset.main(["--preview", str(sheet), "--view", "side"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)


@pytest.fixture(scope="module")
def meshes(rendered):
    return dataset.SyntheticSet(rendered, "here", 1.4, mesh=True)


def test_labels_of_the_mesh_lie_on_what_is_drawn(rendered, meshes):
    near, front = [], []
    for i in range(12):
        hand = meshes[i]
        assert hand.mesh == "builtin" and hand.vertices.shape == (surface.builtin().num_vertices, 3)
        x, y = np.round(project(hand.vertices, hand.K)).astype(int).T
        inside = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
        inside[inside] &= rendered["mask"][i][y[inside], x[inside]] == 1
        footprint = hand.vertices[inside, 2] / hand.K[0, 0]  # width of a pixel, mm
        behind = hand.vertices[inside, 2] - rendered["exact_depth"][i][y[inside], x[inside]]
        near.append(abs(behind) < 2 + 2 * footprint)
        front.append(behind < -2 - 4 * footprint)  # the first hit of a ray is drawn
    assert np.concatenate(near).mean() > 0.3 and np.concatenate(front).mean() < 0.05  # steep edges


def test_the_mesh_follows_from_the_pose(rendered, meshes):
    hands = [meshes[i] for i in range(64)]
    pose = np.float32([hand.mano_pose for hand in hands]).reshape(-1, 16, 3)
    posed = skinned.forward(surface.builtin(), axis_angle_to_matrix(pose), np.float32([h.mano_shape for h in hands]))
    move = np.float32([hand.keypoints_3d[0] for hand in hands])[:, None] - posed.joints[:, :1]
    error = np.linalg.norm(posed.vertices + move - np.float32([hand.vertices for hand in hands]), axis=-1)
    assert error.mean() < 1  # a pose does not determine how far the palm arches
    assert dataset.SyntheticSet(rendered, "here", 1.4)[0].vertices is None


# What the 64 hands of `rendered` are: their labels, pictures and depth
RENDERED = {
    "K": [46.0992, 46.1239, 18.6726],
    "depth": [739.948, 739.948, -1409.5],
    "exact_depth": [788.821, 788.821, -1529.75],
    "image": [129.606, 129.606, -237.552],
    "keypoints_3d": [191.528, 218.025, 227.685],
    "mask": [0.297787, 0.297787, -0.28868],
    "pose": [0.421985, 0.439866, 0.0239517],
    "shape": [0.0398123, 0.77981, 0.645061],
    "turn": [-0.0752122, 0.481238, -0.189035],
}


def test_rendered_hands_stay(rendered):
    """The same seed stands for the same hands in every version: trained networks can be compared."""
    assert rendered.keys() == RENDERED.keys()
    for name, array in rendered.items():
        assert_summary(array, RENDERED[name])
