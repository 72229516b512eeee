"""FreiHAND: layout, units, the four backgrounds, MANO's mean, labels released later, and eight real images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxhand import data
from jaxhand.config import DataConfig, HandConfig, UserError
from jaxhand.data import pack
from jaxhand.data.crop import crop
from jaxhand.data.datasets import freihand
from jaxhand.data.datasets.base import ManoLabels
from jaxhand.hand.camera import project
from tests.support import layouts, mano_file
from tests.support import layouts_freihand as layout

N = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return layout.write(tmp_path_factory.mktemp("freihand"), N)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return layout.write(tmp_path_factory.mktemp("released"), 2, released=True)


@pytest.fixture
def changed(tmp_path, folder):
    """Rewrite one file of labels in a copy: `changed("training_K.json", text)`; returns the copy's folder."""

    def changed(name, text):
        for file in folder.glob("*.json"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
        return tmp_path

    return changed


def test_records_are_millimetres_and_lie_on_their_image(folder):
    source = freihand.load(folder, "train", mano=ManoLabels(vertices=True))
    assert len(source) == 4 * N
    for i in range(len(source)):
        record = source[i]
        np.testing.assert_allclose(record.keypoints_3d, layout.joints("training", i % N) * 1000, atol=1e-3)
        np.testing.assert_allclose(record.vertices, layout.vertices("training", i % N) * 1000, atol=1e-3)
        np.testing.assert_allclose(record.K, layout.camera(i % N))
        assert record.image.shape == (224, 224, 3) and record.hand == "right" and record.joint_valid.all()
        assert layouts.joints_shown(record.image, project(record.keypoints_3d, record.K)) == list(range(21))
    assert crop(source[0], 64, 1.4)["joint_valid"].all()


def test_an_annotation_comes_before_four_backgrounds(folder):
    source = freihand.load(folder, "train")
    for i in range(len(source)):
        assert source[i].name == f"training/rgb/{i:08d}.jpg"
        assert abs(source[i].image[1, 1] - 80.0 * (i // N)).max() < 10
    for version, name in enumerate(freihand.VERSIONS):
        one = freihand.load(folder, "train", variant=name)
        assert [one.read_annotation(i).name for i in range(len(one))] == [
            f"training/rgb/{k + N * version:08d}.jpg" for k in range(N)
        ]
    with pytest.raises(UserError, match="freihand-green: unknown; the backgrounds are gs, hom, sample, auto"):
        freihand.load(folder, "train", variant="green")


def test_no_background_of_a_held_out_annotation_is_trained_on(folder):
    val, train = freihand.load(folder, "val"), freihand.load(folder, "train", without_val=True)
    numbers = [{int(source.read_annotation(i).name[13:21]) % N for i in range(len(source))} for source in (val, train)]
    assert len(val) == 4 and len(train) == 4 * (N - 1)
    assert not numbers[0] & numbers[1] and numbers[0] | numbers[1] == set(range(N))


def test_masks_serve_all_backgrounds(folder):
    source = freihand.load(folder, "train")
    for i in (0, N + 1, 3 * N + 1):
        mask, record = source.mask(i), source.read_annotation(i)
        x, y = project(record.keypoints_3d, record.K).round().astype(int).T
        assert mask.dtype == bool and mask[y, x].all() and mask.mean() < 0.5
    assert freihand.load(folder, "test").mask(0) is None


def test_poses_are_absolute_or_not_there(folder):
    mean = np.linspace(-1, 1, 45)
    assert freihand.load(folder, "train").read_annotation(0).mano_pose is None
    stored = layout.mano(2)[0]
    for given in (mean, [mean, -mean]):  # of the right hand, of right and left
        record = freihand.load(folder, "train", mano=ManoLabels(given)).read_annotation(N + 2)
        np.testing.assert_allclose(record.mano_pose, [*stored[:3], *(stored[3:48] + mean)], atol=1e-6)
        np.testing.assert_allclose(record.mano_shape, stored[48:58], atol=1e-6)


def test_the_evaluation_without_its_labels(folder):
    source = freihand.load(folder, "test")
    record = source[1]
    assert len(source) == 3 and record.name == "evaluation/rgb/00000001.jpg"
    assert not record.joint_valid.any() and not record.keypoints_3d.any()
    np.testing.assert_allclose(record.K, layout.camera(1))


def test_the_evaluation_with_its_labels(released):
    for place in (released, released.parent / "FreiHAND_pub_v2_eval"):  # next to the folder, or alone
        source = freihand.load(place, "test", mano=ManoLabels(np.zeros(45), vertices=True))
        assert len(source) == 3
        record = source[2]
        np.testing.assert_allclose(record.keypoints_3d, layout.joints("evaluation", 2) * 1000, atol=1e-3)
        np.testing.assert_allclose(record.vertices, layout.vertices("evaluation", 2) * 1000, atol=1e-3)
        assert layouts.joints_shown(record.image, project(record.keypoints_3d, record.K)) == list(range(21))


def test_the_scale_is_the_bone_after_the_middle_knuckle(folder):
    """Only our joint order makes joints 9 and 10 that bone."""
    scales = json.loads((folder / "training_scale.json").read_text())
    source = freihand.load(folder, "train")
    bones = [np.linalg.norm(np.subtract(*source.read_annotation(i).keypoints_3d[[9, 10]])) for i in range(N)]
    np.testing.assert_allclose(bones, np.array(scales) * 1000, rtol=1e-5)


def test_label_and_file_of_a_record(folder):
    source = freihand.load(folder, "train")
    record, label = source[7], source.read_annotation(7)
    assert label.image is None and label.name == record.name
    np.testing.assert_array_equal(label.keypoints_3d, record.keypoints_3d)
    assert source.encoded(7) == ((folder / "training/rgb/00000007.jpg").read_bytes(), None)
    with pytest.raises(IndexError):
        source.read_annotation(4 * N)


XYZ = [layout.joints("training", k).tolist() for k in range(N)]
MISTAKES = {
    "training_xyz.json: 4 entries, but training_K.json has 5": ("training_xyz.json", XYZ[:4]),
    "training_xyz.json: joints must be .* median z is 6": ("training_xyz.json", (np.array(XYZ) * 1000).tolist()),
    "training_xyz.json: joints must be .* median z is -0.6": ("training_xyz.json", (-np.array(XYZ)).tolist()),
    "training_xyz.json: entry 3 is not finite": ("training_xyz.json", XYZ[:3] + [[[np.nan] * 3] * 21] + XYZ[4:]),
    "training_xyz.json: must contain a list .* numbers .*null": ("training_xyz.json", XYZ[:4] + [[[None] * 3] * 21]),
    "training_xyz.json: must contain a list of 21x3 numbers, but": ("training_xyz.json", [x[:20] for x in XYZ]),
    "training_xyz.json: must contain .*other lengths": ("training_xyz.json", XYZ[:4] + [XYZ[4][:20] + [[0] * 2]]),
    "training_xyz.json: must contain a list of 21x3.*have other": ("training_xyz.json", np.ravel(XYZ).tolist()),
    "training_xyz.json: does not end with ']': cut off": ("training_xyz.json", json.dumps(XYZ)[:3000]),
    "training_xyz.json: cut off after 3 entries": ("training_xyz.json", json.dumps(XYZ[:3])[:-2]),
    "training_K.json: must contain a list of 3x3": ("training_K.json", "[]"),
    "training_K.json: does not end": ("training_K.json", "<html>not found</html>"),
    "training_K.json: must contain": ("training_K.json", '["page", "not found"]'),
    "training_K.json: does not": ("training_K.json", ""),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_named(changed, message):
    with pytest.raises(UserError, match=message) as caught:
        freihand.load(changed(*MISTAKES[message]), "train")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(folder, changed, tmp_path):
    with pytest.raises(UserError, match="none: no such folder"):
        freihand.load(tmp_path / "none", "train")
    copy = changed("training_K.json", [layout.camera(k).tolist() for k in range(N)])
    with pytest.raises(UserError, match="image .*training/rgb/00000000.jpg does not exist"):
        freihand.load(copy, "train")[0]
    with pytest.raises(UserError, match="training/rgb/00000000.jpg: no such file"):
        freihand.load(copy, "train").encoded(0)
    (copy / "training_xyz.json").unlink()
    with pytest.raises(UserError, match="training_xyz.json: no such file or directory; check the path, or download"):
        freihand.load(copy, "train")
    (copy / "training/rgb").mkdir(parents=True)
    (copy / "training/rgb/00000003.jpg").write_bytes((folder / "training/rgb/00000003.jpg").read_bytes()[:500])
    (copy / "training_xyz.json").write_text(json.dumps(XYZ))
    with pytest.raises(UserError, match="training/rgb/00000003.jpg is not an image or is cut off"):
        freihand.load(copy, "train")[3]


MEASURED = """
import re, sys, time
from jaxhand.data.datasets import freihand
start = time.time()
source = freihand.load(sys.argv[1], "train")
source.read_annotation(len(source) - 1)
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())  # getrusage counts the tests' process as well
print(len(source), time.time() - start, int(peak[1]) / 1024)
"""


@pytest.mark.slow
def test_the_complete_set_starts_quickly(tmp_path):
    """130,240 records, first parsed and then from the cache: seconds and peak MB of the process."""
    rng = np.random.default_rng(0)
    for name, entry in {"K": layout.camera(0), "xyz": layout.joints("training", 0)}.items():
        entries = [json.dumps((entry * rng.uniform(0.9, 1.1)).tolist()) for _ in range(110)]
        (tmp_path / f"training_{name}.json").write_text(f"[{', '.join(entries * 296)}]")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
    for most_seconds in (3.0, 0.3):
        command = [sys.executable, "-c", MEASURED, tmp_path]
        count, seconds, megabytes = map(float, subprocess.check_output(command, env=environment, text=True).split())
        print(f"{count:.0f} records: {seconds:.3f} s, {megabytes:.0f} MB")
        assert count == 130240 and seconds < most_seconds and megabytes < 500


def test_real_images(shared):
    """Eight real images of two annotations before four backgrounds each; labelled in 2D only."""
    source = freihand.load(shared / "real/freihand/test_freihand.json", "test")
    assert len(source) == 8
    records = [source[i] for i in range(8)]
    for record in records:
        assert record.image.shape == (224, 224, 3) and record.hand == "right" and not record.joint_valid.any()
        assert record.joint_valid_2d.all() and (record.keypoints_2d > 0).all() and (record.keypoints_2d < 224).all()
        np.testing.assert_allclose(record.K, [[4375, 0, 112], [0, 4375, 112], [0, 0, 1]])
        inside = (record.keypoints_2d > record.bbox[:2]) & (record.keypoints_2d < record.bbox[2:])
        assert inside.all()
        assert crop(record, 64, 1.4)["image"].std() > 10
    by_number = {int(record.name[:8]): record for record in records}
    for number, record in by_number.items():  # the reader of the complete set relies on k + N v
        np.testing.assert_array_equal(record.keypoints_2d, by_number[number % freihand.ANNOTATIONS].keypoints_2d)
    held = freihand.load(shared / "real/freihand/test_freihand.json", "val")
    kept = freihand.load(shared / "real/freihand/test_freihand.json", "train", without_val=True)
    groups = [{int(s.read_annotation(i).name[:8]) % freihand.ANNOTATIONS for i in range(len(s))} for s in (held, kept)]
    assert len(held) == len(kept) == 4 and not groups[0] & groups[1]


def test_a_mesh_model_gets_poses_and_vertices(folder, tmp_path):
    numbers = mano_file.model()
    file = mano_file.write(tmp_path / "MANO_RIGHT.pkl", numbers)
    hand = HandConfig(mano_path=str(file))
    source = data.load(f"freihand:{folder}", "train", DataConfig(), 0, hand)
    record, given = source[1], layout.mano(1)[0]
    assert record.mesh == "mano"
    np.testing.assert_allclose(record.vertices, layout.vertices("training", 1) * 1000, atol=1e-3)
    np.testing.assert_allclose(record.mano_pose, np.r_[given[:3], given[3:48] + numbers["hands_mean"]], atol=1e-5)
    plain = data.load(f"freihand:{folder}", "train", DataConfig(), 0)[1]
    assert plain.mano_pose is None and plain.vertices is None

    pack.pack("freihand", folder, tmp_path / "packed", splits=["train"], mano_path=file, say=lambda line: None)
    packed = data.load(f"freihand:{tmp_path / 'packed'}", "train", DataConfig(), 0, hand)[1]
    np.testing.assert_array_equal(packed.vertices, record.vertices)
    np.testing.assert_array_equal(packed.mano_pose, record.mano_pose)
