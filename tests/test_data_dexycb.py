"""DexYCB: the toolkit's splits, order and ids, frames without a hand, both hands, MANO's coefficients, and the files in
COCO's style, of either unit."""

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.datasets import dexycb
from jaxhand.data.datasets.base import ManoLabels
from jaxhand.data.datasets.json_stream import entries
from tests.support import layouts
from tests.support import layouts_dexycb as tree

TINY = {"subjects": tree.SUBJECTS, "serials": tree.SERIALS, "sequences": 5}
RNG = np.random.default_rng(0)
MEAN, COMPONENTS = RNG.normal(0, 1, (2, 45)), RNG.normal(0, 1, (2, 45, 45))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tree.write(tmp_path_factory.mktemp("dexycb"))


def frames_of(subjects, sequences, cameras=(0, 1)):
    """(s, q, c, f) as the toolkit orders them: sequence, camera, frame."""
    return [(s, q, c, f) for s in subjects for q in sequences for c in cameras for f in range(tree.frames(q))]


def test_records_are_the_toolkits_frames_in_its_order(root):
    source = dexycb.load(root, "train", **TINY)
    wanted = [(i, frame) for i, frame in enumerate(frames_of((0, 1), range(4))) if tree.has_hand(frame[3])]
    assert len(source) == len(wanted) == len(source.ids) < source.ids[-1]
    assert source.ids.tolist() == [i for i, _ in wanted]
    sides = set()
    for record, (_, (s, q, c, f)) in zip(map(source.read_annotation, range(len(source))), wanted, strict=True):
        np.testing.assert_allclose(record.keypoints_3d, tree.joints(s, q, c, f), atol=1e-3)
        np.testing.assert_array_equal(record.K, tree.K(c))
        assert record.name == tree.name(s, q, c, f)
        assert record.hand == tree.side(s, q) and record.joint_valid.all() and record.mano_pose is None
        np.testing.assert_allclose(record.mano_shape, tree.betas(s, record.hand), atol=1e-6)
        sides.add(record.hand)
    assert sides == {"right", "left"}


def test_a_record_has_image_and_depth_in_mm(root):
    source = dexycb.load(root, "val", **TINY)
    record = source[-1]
    assert layouts.joints_shown(record.image, layouts.pixels(record.keypoints_3d, record.K)) == list(range(21))
    assert record.image.shape == (480, 640, 3) and record.depth.dtype == np.float32
    np.testing.assert_array_equal(record.depth, tree.depth(1, 4))
    image, depth = source.encoded(len(source) - 1)
    assert image == (root / record.name).read_bytes() and depth.startswith(b"\x89PNG")
    assert dexycb.load(root, "val", **TINY, depth=False)[0].depth is None
    with pytest.raises(IndexError):
        source[len(source)]


def test_the_splits_of_the_toolkit():
    """Counts of complete sequences and cameras, of 10 subjects, 8 cameras and 100 sequences."""
    count = {}
    for (setup, split), (of_subject, of_camera, of_sequence) in dexycb.SPLITS.items():
        tests = (10, of_subject), (8, of_camera), (100, of_sequence)
        count[setup, split] = tuple(sum(map(test, range(n))) for n, test in tests)
    assert count == {
        ("s0", "train"): (10, 8, 80), ("s0", "val"): (2, 8, 20), ("s0", "test"): (8, 8, 20),
        ("s1", "train"): (7, 8, 100), ("s1", "val"): (1, 8, 100), ("s1", "test"): (2, 8, 100),
        ("s2", "train"): (10, 6, 100), ("s2", "val"): (10, 1, 100), ("s2", "test"): (10, 1, 100),
        ("s3", "train"): (10, 8, 75), ("s3", "val"): (10, 8, 10), ("s3", "test"): (10, 8, 15),
    }  # fmt: skip
    assert len(dexycb.SUBJECTS) == 10 and len(dexycb.SERIALS) == 8


def test_setups_choose_subjects_cameras_and_objects(tmp_path):
    """Eight cameras, to include the test's camera: ids count only the cameras of the setup."""
    one = {"subjects": tree.SUBJECTS[:1], "serials": dexycb.SERIALS, "sequences": 1}
    root = tree.write(tmp_path, 1, images=False, subjects=one["subjects"], serials=one["serials"])
    test = dexycb.load(root, "test", variant="s2", **one)
    assert test.ids.tolist() == [1, 2] and all(dexycb.SERIALS[7] in test.read_annotation(i).name for i in range(2))
    np.testing.assert_array_equal(test.read_annotation(0).K, tree.K(7))
    train = dexycb.load(root, "train", variant="s2", **one)
    assert len(train) == 12 and train.ids[-1] == 17
    with pytest.raises(UserError, match="no frame of dexycb-s1, test has a hand"):
        dexycb.load(root, "test", variant="s1", **one)


def test_all_45_coefficients_are_decoded_by_each_hands_components(root):
    """Read as angles, they would be another hand; smplx reads 45 numbers as angles."""
    source = dexycb.load(root, "train", **TINY, mano=ManoLabels(MEAN, COMPONENTS))
    wanted = [frame for frame in frames_of((0, 1), range(4)) if tree.has_hand(frame[3])]
    for record, frame in zip(map(source.read_annotation, range(len(source))), wanted, strict=True):
        side, pose = int(record.hand == "left"), tree.pose(*frame).astype(np.float64)
        slow = [MEAN[side, j] + sum(pose[3 + i] * COMPONENTS[side, i, j] for i in range(45)) for j in range(45)]
        np.testing.assert_allclose(record.mano_pose, [*pose[:3], *slow], rtol=1e-5, atol=1e-5)
    right = dexycb.load(root, "train", **TINY, mano=ManoLabels(MEAN[0], COMPONENTS[0]))
    for i in range(len(right)):
        assert (right.read_annotation(i).mano_pose is None) == (right.read_annotation(i).hand == "left")
    assert dexycb.load(root, "train", **TINY, mano=ManoLabels(MEAN)).read_annotation(0).mano_pose is None


def test_labels_are_kept_and_read_again_when_files_come(root, monkeypatch):
    dexycb.load(root, "train", **TINY)
    monkeypatch.setattr(dexycb, "_read", lambda *_: pytest.fail("parsed again"))
    assert len(dexycb.load(root, "val", **TINY)) == 2 * 2


@pytest.mark.parametrize("unit, none", [(0.001, -1.0), (1.0, -1.0), (1.0, -1000.0)])
def test_json_in_metres_or_millimetres(root, unit, none):
    file = tree.write_json(root, unit=unit, none=none)
    source = dexycb.load(root, "train", variant="json", mano=ManoLabels(MEAN))
    wanted = [(i, frame) for i, frame in enumerate(frames_of((0, 1), range(5))) if tree.has_hand(frame[3])]
    assert source.ids.tolist() == [i for i, _ in wanted]
    for i in (0, 3, len(source) - 1):
        record, frame = source[i], wanted[i][1]
        s, q, c, f = frame
        np.testing.assert_allclose(record.keypoints_3d, tree.joints(*frame), atol=1e-3)
        np.testing.assert_array_equal(record.K, tree.K(c))
        assert record.hand == tree.side(s, q) and record.name == tree.name(*frame)
        assert layouts.joints_shown(record.image, layouts.pixels(record.keypoints_3d, record.K)) == list(range(21))
        np.testing.assert_array_equal(record.depth, tree.depth(s, q))
        mean = MEAN[int(record.hand == "left")]
        np.testing.assert_allclose(record.mano_pose[3:], tree.pose(*frame)[3:48] + mean, atol=1e-5)
    assert dexycb.load(file, "train", variant="json").read_annotation(0).mano_pose is None


def test_json_val_is_of_whole_sequences(root):
    tree.write_json(root)
    parts = [dexycb.load(root, split, variant="json", without_val=True) for split in ("train", "val")]
    names = [{p.read_annotation(i).name.rsplit("/", 2)[0] for i in range(len(p))} for p in parts]
    assert names[0] and names[1] and not names[0] & names[1]
    assert sum(map(len, parts)) == len(dexycb.load(root, "train", variant="json"))


def test_the_subjects_that_are_there_can_be_read(root, tmp_path):
    for part in (tree.SUBJECTS[1], "calibration"):
        (tmp_path / part).symlink_to(root / part)
    with pytest.raises(UserError, match="subject-01: no such folder; .* read those that are there: dexycb-s0-part:"):
        dexycb.load(tmp_path, "train", **TINY)
    source, whole = dexycb.load(tmp_path, "train", variant="s0-part", **TINY), dexycb.load(root, "train", **TINY)
    names = [whole.read_annotation(i).name for i in range(len(whole))]
    wanted = [name for name in names if name.startswith(tree.SUBJECTS[1])]
    assert [source.read_annotation(i).name for i in range(len(source))] == wanted and source.ids is None
    complete = dexycb.load(root, "train", variant="s0-part", **TINY)
    assert complete.ids.tolist() == whole.ids.tolist()
    with pytest.raises(UserError, match="dexycb-s1-part, test needs one of the subjects 20201015-subject-09"):
        dexycb.load(
            tmp_path, "test", variant="s1-part", **TINY | {"subjects": dexycb.SUBJECTS[:7] + dexycb.SUBJECTS[8:]}
        )
    with pytest.raises(UserError, match="dexycb-s0-half, train: unknown; use s0"):
        dexycb.load(tmp_path, "train", variant="s0-half", **TINY)


def test_mistakes_are_named(tmp_path):
    root = tree.write(tmp_path, 1)
    one = TINY | {"sequences": 1}
    name = "20200709-subject-01/20200709_140000/836212060125"
    for arguments, match in (
        ((tmp_path / "none", "train"), "none: no such folder"),
        ((root, "train", "s7"), "dexycb-s7, train: unknown; use s0"),
        ((root, "dev"), "dexycb-s0, dev: unknown"),
    ):
        with pytest.raises(UserError, match=match):
            dexycb.load(*arguments[:2], variant="".join(arguments[2:]))
    with pytest.raises(UserError, match="20200709-subject-01: contains 1 sequences, not 100"):
        dexycb.load(root, "train")
    with pytest.raises(UserError, match="subject-03: no such folder; download the missing subject"):
        dexycb.load(root, "train", **one | {"subjects": (*tree.SUBJECTS, "20200820-subject-03")})
    with pytest.raises(UserError, match=r"annotations/DEX_YCB_s0_test_data\.json: no such file"):
        dexycb.load(root, "test", variant="json")

    record = dexycb.load(root, "train", **one)[0]
    (root / name / "aligned_depth_to_color_000001.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="aligned_depth_to_color_000001.png: the depth of .* 16-bit"):
        dexycb.load(root, "train", **one)[0]
    (root / record.name).unlink()
    with pytest.raises(UserError, match="color_000001.jpg does not exist"):
        dexycb.load(root, "train", **one, depth=False)[0]

    label = root / name / "labels_000001.npz"
    whole = label.read_bytes()
    for content, match in (
        (whole[:200], "damaged file"),
        ({"joint_3d": np.ones((1, 21, 3)) * 700, "pose_m": np.zeros((1, 51))}, "must be .* up to 700"),
        ({"joint_3d": np.ones((21, 3)), "pose_m": np.zeros((1, 51))}, "joint_3d must be 1x21x3"),
        ({"joint_3d": np.ones((1, 21, 3))}, "damaged file"),
        (None, "1 of 6 files are missing; download the subject again"),
    ):
        label.unlink()
        if isinstance(content, bytes):
            label.write_bytes(content)
        elif content:
            np.savez(label, **content)
        (root / name / f"touched_{match[:8]}").touch()  # an added or removed file makes it read again
        with pytest.raises(UserError, match=f"labels_000001.npz: .*{match}"):
            dexycb.load(root, "train", **one)


@pytest.mark.parametrize(
    "content, match",
    [
        ('{"images": [', "cut off or damaged after 0 images"),
        ('{"images": [{"id": 0, "file_name": "a.jpg"}], "annotations": [{"id": 0}, ', "annotation 0 is malformed"),
        ('{"images": [{"id": 0}], "annotations": []}', "image 0 has no id or no file_name"),
        ('{"images": [], "annotations": []}', "contains no annotation of a hand"),
        ('{"images": [1], "annotations": []}', "entry 0 of images is not a JSON object"),
        ("[]", "has no list 'images'"),
    ],
)
def test_mistakes_in_json_are_named(content, match, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=f"a.json: {match}"):
        dexycb.load(tmp_path / "a.json", "train", variant="json")


def test_entries_of_a_large_file_come_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxhand.data.datasets.json_stream._PIECE", 7)
    images = '[ {"id": 1, "x": "],}"} ,{"id": [2, {"y": 1.5}]}\n]'
    content = f'{{"info": {{"a": [1]}}, "images" : {images}, "annotations":[{{"id": 3}}]}}'
    (tmp_path / "a.json").write_text(content)
    assert list(entries(tmp_path / "a.json", "images")) == [{"id": 1, "x": "],}"}, {"id": [2, {"y": 1.5}]}]
    assert list(entries(tmp_path / "a.json", "annotations")) == [{"id": 3}]
