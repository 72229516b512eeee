"""Labels that cannot be right, each kind in each reader: refused, left out and counted, or named before training."""

import contextlib
import dataclasses
import re
import time

import cv2
import numpy as np
import pytest

from jaxhand import data
from jaxhand import inspect as command
from jaxhand.config import UserError
from jaxhand.data import inspect, label_sample, pipeline, set_checks
from jaxhand.data.crop import crop
from jaxhand.data.mix import Mix
from jaxhand.data.record import Record
from jaxhand.hand.skeleton import from_our_order
from jaxhand.training import loop
from tests.support import layouts, wrong_labels
from tests.support.exif import with_exif
from tests.support.wrong_labels import COUNT, HEIGHT, READERS, WIDTH, Labels

WITH_CAMERA = ("folder", "coco", "freihand", "rhd", "ho3d", "dexycb_json", "interhand", "outside", "packed")
WITH_BOX = ("folder", "coco", "ho3d", "interhand", "hamer_npz", "hamer_tars", "hint", "outside", "packed")
WITH_3D = (*WITH_CAMERA, "hamer_npz", "hamer_tars")
SIZE = np.array([WIDTH, HEIGHT])


def joints(change):
    """Labels whose joints of all hands are changed; the 2D labels stay."""
    return lambda labels: labels._replace(joints=change(labels.joints))


def one_hand(change):
    """Labels whose joints of hand 5 are changed."""
    return lambda labels: labels._replace(
        joints=np.array([change(j) if i == 5 else j for i, j in enumerate(labels.joints)])
    )


def cameras(change):
    return lambda labels: labels._replace(K=np.array([change(K.copy()) for K in labels.K]))


def boxes(change):
    return lambda labels: labels._replace(boxes=np.array([change(box[:2], box[2:]) for box in labels.boxes]))


def scaled(K, x, y):
    return np.diag([x, y, 1]) @ K


def one_focal_length_of_0(labels):
    return labels._replace(K=np.array([scaled(K, 0, 0) if i == 5 else K for i, K in enumerate(labels.K)]))


def one_pose(labels):
    moved = labels.joints[:1] - labels.joints[0, 9] + labels.joints[:, 9:10]
    return labels._replace(joints=moved, points=np.array([layouts.pixels(j, K) for j, K in zip(moved, labels.K)]))


KINDS = {  # kind → (readers, change, what the user reads)
    "metres": (WITH_3D, joints(lambda j: j / 1000), "in metres|length of no hand|must be in m"),
    "centimetres": (WITH_3D, joints(lambda j: j / 10), "in centimetres|length of no hand|must be in m"),
    "1e30": (WITH_3D, joints(lambda j: j * 1e28), "bones of no hand|length of no hand|must be in m"),
    "behind": (
        WITH_CAMERA,
        joints(lambda j: j * (1, -1, -1)),
        "behind the camera|z forward|in the OpenGL|must be in m",
    ),
    "another order": (WITH_3D, joints(lambda j: from_our_order(j, "ho3d")), "ordered as in ho3d"),
    "one in centimetres": (
        WITH_3D,
        one_hand(lambda j: j / 10),
        "jsonl:6.*in centimetres|(in centimetres|length of no hand).*5",
    ),
    "one in another order": (
        WITH_3D,
        one_hand(lambda j: from_our_order(j, "interhand")),
        "order of another data set.*5",
    ),
    "one outside its image": (
        WITH_CAMERA,
        one_hand(lambda j: j + (2000, 0, 0)),
        "(no joint|none) lies in the image.*[56]",
    ),
    "one focal length of 0": (WITH_CAMERA, one_focal_length_of_0, "(K must be|focal length must be positive).*"),
    "K in 0..1": (WITH_CAMERA, cameras(lambda K: scaled(K, 1 / WIDTH, 1 / HEIGHT)), "K: in 0..1 instead of px"),
    "focal length in mm": (WITH_CAMERA, cameras(lambda K: K @ np.diag([0.08, 0.08, 1])), "K: focal length too short"),
    "K of half the size": (WITH_CAMERA, cameras(lambda K: scaled(K, 0.5, 0.5)), "K of another size"),
    "K of thrice the size": (
        WITH_CAMERA,
        cameras(lambda K: scaled(K, 3, 3)),
        "K of another size|K must be of this image",
    ),
    "one pose": (WITH_3D, one_pose, "same pose"),
    "boxes without area": (WITH_BOX, boxes(lambda low, high: [*high, *low]), "no area|scale|x0 < x1"),
    "boxes outside": (WITH_BOX, boxes(lambda low, high: [*low + 900, *high + 900]), "outside the image 12"),
    "negative boxes": (WITH_BOX, boxes(lambda low, high: [*-high, *-low]), "outside the image 12"),
    "boxes in 0..1": (
        WITH_BOX,
        boxes(lambda low, high: [*low / SIZE, *high / SIZE]),
        "in 0..1 instead of px|in pixels",
    ),
    "boxes as x y w h": (WITH_BOX, boxes(lambda low, high: [*low, *high - low]), "x, y, width, height|x0 < x1|scale"),
    "boxes of half the size": (
        WITH_BOX,
        boxes(lambda low, high: [*low / 2, *high / 2]),
        "image of (half|twice) the size",
    ),
}
ALLOWED = {  # what a reader converts by itself
    ("metres", "dexycb_json"),
    ("boxes as x y w h", "hint"),
    ("boxes of half the size", "hint"),
}


def outcome(reader: str, path, labels: Labels) -> str:
    """What the user reads before training on these labels: the error, or the notes."""
    try:
        return " / ".join(set_checks.check({"data.train": READERS[reader](path, labels)}))
    except UserError as error:
        assert "\n" not in str(error)
        return f"error: {error}"


@pytest.mark.parametrize("reader", READERS)
def test_good_labels_are_not_doubted(reader, tmp_path):
    assert outcome(reader, tmp_path, wrong_labels.good()) == ""


@pytest.mark.parametrize(
    ("kind", "reader"),
    [(kind, reader) for kind in KINDS for reader in KINDS[kind][0] if (kind, reader) not in ALLOWED],
)
def test_each_kind_is_named_in_each_reader(kind, reader, tmp_path):
    _, change, text = KINDS[kind]
    assert re.search(text, outcome(reader, tmp_path, change(wrong_labels.good())))


@pytest.mark.parametrize(
    ("kind", "reader"),
    [(kind, "coco") for kind in KINDS]
    + [("K in 0..1", "ho3d"), ("boxes outside", "folder"), ("one in another order", "rhd"), ("1e30", "folder")],
)
def test_inspect_never_calls_such_a_set_complete(kind, reader, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inspect, "PUBLISHED", {})
    path, name = tmp_path, reader
    with contextlib.suppress(UserError):  # the reader refuses it, and so does `inspect`
        READERS[reader](path, KINDS[kind][1](wrong_labels.good()))
    if reader == "coco":
        path, name = tmp_path / "train.json", "freihand"
    assert command.main([name, str(path), "--split", "train"]) == 1
    output = capsys.readouterr().out
    assert "Complete" not in output and re.search("doubtful: |wrong: |damaged: |left out: ", output.splitlines()[-1])


@pytest.mark.parametrize("kind", ["boxes without area", "boxes outside", "negative boxes", "boxes in 0..1"])
def test_the_joints_decide_the_crop_where_a_box_does_not_fit(kind, tmp_path):
    source = READERS["outside"](tmp_path, KINDS[kind][1](wrong_labels.good()))
    for i in range(COUNT):
        record = source[i]
        crops = [crop(each, 32, 1.4) for each in (record, dataclasses.replace(record, bbox=None))]
        for key, array in crops[1].items():
            np.testing.assert_array_equal(crops[0][key], array, err_msg=key)
    [note] = set_checks.check({"data.train": source})
    assert "the joints decide 12 of these crops" in note


def test_a_good_box_decides_the_crop(tmp_path):
    source = READERS["outside"](tmp_path, wrong_labels.good())
    for i in range(COUNT):
        x0, y0, x1, y1 = source[i].bbox
        side = 1.4 * max(x1 - x0, y1 - y0)
        middle = crop(source[i], 32, 1.4)["K"] @ [0, 0, 1]  # the pixel of the principal point
        np.testing.assert_allclose(middle[0], (159.5 - (x0 + x1) / 2) * 32 / side + 15.5, atol=1e-3)


def many(count: int, shift: float = 0.0) -> list[Record]:
    """Hands of different poses; another `shift` makes other labels."""
    K = np.array([[320.0, 0, 159.5], [0, 320, 119.5], [0, 0, 1]])
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    return [
        Record(image, K, layouts.hand(seed, at=(shift, 0, 700)), np.ones(21), "right", name=f"{seed}")
        for seed in range(count)
    ]


def test_the_same_hands_in_training_and_test():
    train = many(20)
    assert set_checks.check({"data.train": train, "data.test": many(20, shift=3)}) == []
    [note] = set_checks.check({"data.train": train, "data.test": train})
    assert note == "data.train and data.test: both contain the same hands: 20 of 20 hands checked, first 0"
    [note] = set_checks.check({"data.train": train, "data.test": [*many(9, shift=3), train[4]]})
    assert note.endswith("1 of 10 hands checked, first 4")
    unlabelled = [dataclasses.replace(record, joint_valid=np.zeros(21)) for record in train]
    assert set_checks.check({"data.test": unlabelled, "another": unlabelled}) == []


def test_each_set_of_a_mix_is_checked_by_its_name():
    wrong = [dataclasses.replace(record, K=np.diag([1.0, 1, 1])) for record in many(10, shift=3)]
    mixed = Mix({"good": many(10), "bad": wrong}, {"good": 1.0, "bad": 1.0})
    [note] = set_checks.check({"data.train": mixed})
    assert note.startswith("data.train bad: K: in 0..1 instead of px, 10 of 10 hands checked")
    [_, note] = set_checks.check({"data.train": mixed, "data.test": many(4)})
    assert note.startswith("data.train good and data.test: both contain the same hands: 4 of 4")


def test_a_strict_check_refuses_what_is_doubtful(tmp_path):
    with pytest.raises(
        UserError, match="^data.train and data.test: both contain .*; correct the data, or set data.strict"
    ):
        set_checks.check({"data.train": many(4), "data.test": many(4)}, strict=True)
    source = READERS["folder"](tmp_path, KINDS["one outside its image"][1](wrong_labels.good()))
    assert len(source) == COUNT - 1
    with pytest.raises(
        UserError, match="data.train: 1 of 12 hands are left out: no joint lies in the image, first .*:6"
    ):
        set_checks.check({"data.train": source}, strict=True)
    assert set_checks.check({"data.train": many(4)}, strict=True) == []


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("of", ["stored", "upright"])
def test_labels_of_stored_pixels_in_images_that_exif_turns(orientation, of, tmp_path):
    labels = wrong_labels.good()
    if of == "upright" and orientation == 6:  # labels for 240x320 px
        K = labels.K.copy()
        K[:, :2, 2] = K[:, 1::-1, 2]
        points = np.array([layouts.pixels(joints, camera) for joints, camera in zip(labels.joints, K)])
        labels = labels._replace(K=K, points=points, boxes=np.concatenate([points.min(1), points.max(1)], -1))
    source = READERS["folder"](tmp_path, labels)
    file = tmp_path / "images/0.jpg"
    file.write_bytes(with_exif(file.read_bytes(), {}, orientation=orientation))  # all names are one file
    notes = set_checks.check({"data.train": source})
    if orientation == 6 and of == "stored":
        assert (
            len(notes) == 1
            and "12 of 12 images are turned by EXIF, but their labels are those of the stored" in notes[0]
        )
    else:
        assert notes == []
    lines = []
    inspect.inspect("folder", tmp_path, splits=["train"], say=lines.append)
    turned = [line for line in lines if "by EXIF" in line]
    assert turned == (
        ["  turned    12 of 12 images by EXIF; labels must be those of the upright image"] if orientation > 1 else []
    )


def test_a_jpeg_that_is_damaged_inside_is_named(tmp_path, monkeypatch):
    READERS["folder"](tmp_path, wrong_labels.good())
    monkeypatch.setattr(inspect, "PUBLISHED", {})
    file = tmp_path / "images/3.jpg"
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    content = cv2.imencode(".jpg", image)[1].tobytes()
    file.unlink()
    file.write_bytes(content)
    assert inspect.inspect("folder", tmp_path, splits=["train"], say=lambda line: None) == []
    file.write_bytes(content[: len(content) // 3] + b"\xff\xd9")  # with its end marker
    [fault] = inspect.inspect("folder", tmp_path, splits=["train"], say=lambda line: None)
    assert "1 of 12 hands decoded cannot be read" in fault and "images/3.jpg is damaged inside" in fault


def test_confidences_in_place_of_visibility(tmp_path):
    source = READERS["coco"](tmp_path, wrong_labels.good())
    assert source.left_out == [] and source.read_annotation(2).joint_valid.all()
    text = (tmp_path / "train.json").read_text().replace(", 2.0]", ", 0.05]", 21)  # of the first hand
    (tmp_path / "train.json").write_text(text)
    source = data.read("freihand", tmp_path / "train.json", "train")
    assert not source.read_annotation(0).joint_valid.any() and source.read_annotation(1).joint_valid.all()
    assert source.left_out == ["21 joints are not labelled: their visibility is below 0.3"]


def test_tars_that_were_joined_are_read_whole(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for each in (first, second):
        each.mkdir()
    READERS["hamer_tars"](first, wrong_labels.good())
    READERS["hamer_tars"](second, wrong_labels.good()._replace(boxes=wrong_labels.good().boxes + 1))
    whole = tmp_path / "joined"
    whole.mkdir()
    tars = [(each / "000000.tar").read_bytes() for each in (first, second)]
    (whole / "000000.tar").write_bytes(tars[0] + tars[1])
    source = data.read("hamer", whole, "train")
    assert len(source) == 2 * COUNT
    np.testing.assert_allclose(source.read_annotation(COUNT).bbox, source.read_annotation(0).bbox + 1, atol=1e-3)
    assert source[COUNT].image.shape == (HEIGHT, WIDTH, 3)
    (whole / "000000.tar").write_bytes(tars[0] + tars[1][:2000])
    with pytest.raises(UserError, match="000000.tar: cut off"):
        data.read("hamer", whole, "train")


def test_a_name_that_is_wrong_is_no_damage(tmp_path, capsys):
    READERS["freihand"](tmp_path, wrong_labels.good())
    assert command.main(["freihand-zz", str(tmp_path)]) == 2
    assert "freihand-zz: unknown; the backgrounds are gs" in capsys.readouterr().err


def test_a_set_may_be_meant_to_be_a_part(tmp_path):
    READERS["freihand"](tmp_path, wrong_labels.good())
    options = {"splits": ["train"], "say": lambda line: None}
    [fault] = inspect.inspect("freihand", tmp_path, **options)
    assert "half-downloaded" in fault and inspect.inspect("freihand", tmp_path, part=True, **options) == []


def test_many_steps_of_a_small_set_are_explained(tiny):
    config = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, epoch_samples=400, batch_size=8))
    assert pipeline.repetition_notes(many(20), config) == [
        "training.epoch_samples is 400, but there are 20 training hands: "
        "an epoch has 50 steps and uses each hand 20 times"
    ]
    assert pipeline.repetition_notes(many(20), tiny) == []


def test_a_training_says_what_is_doubtful_or_refuses_it(tiny, tmp_path, monkeypatch):
    sets = {"train": many(16), "test": many(4)}
    monkeypatch.setattr(loop.data, "load", lambda name, split, *_: sets[split])
    run = loop.Run(tiny, tmp_path / "run")
    try:
        assert run._data_notes == [
            "data.train and data.test: both contain the same hands: 4 of 4 hands checked, first 0"
        ]
    finally:
        run.close()
    strict = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, strict=True))
    with pytest.raises(UserError, match="both contain the same hands"):
        loop.Run(strict, tmp_path / "strict")
    sets["test"] = [dataclasses.replace(record, K=np.zeros((3, 3))) for record in many(4)]
    with pytest.raises(UserError, match="data.test: K must be"):
        loop.Run(tiny, tmp_path / "wrong")


def test_a_large_set_is_checked_in_a_moment():
    hands = many(50)

    class Large:
        def __len__(self):
            return 130240

        def __getitem__(self, i):
            raise AssertionError("no image is needed")

        def read_annotation(self, i):
            return dataclasses.replace(hands[i % 50], image=None)

        def read_encoded(self, i):
            return hands[i % 50]

    begin = time.process_time()
    assert set_checks.check({"data.train": Large()}) == []
    assert time.process_time() - begin < 5  # 0.3 s; the limit is for slow machines
    assert len(label_sample.read(Large()).names) == label_sample.MAX_RECORDS


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"hand": "both"}, 'hand must be "right" or "left", got \'both\''),
        ({"keypoints_3d": np.ones((20, 3))}, r"keypoints_3d must be numbers of shape \(21, 3\)"),
        ({"K": None}, r"K must be numbers of shape \(3, 3\)"),
        ({"bbox": [1, 2, 3]}, r"bbox must be numbers of shape \(4,\)"),
        ({"mano_pose": np.ones(45)}, r"mano_pose must be numbers of shape \(48,\)"),
        ({"keypoints_2d": np.ones((21, 2)), "joint_valid_2d": None}, "keypoints_2d needs joint_valid_2d"),
        ({"image": np.ones((9, 9, 3), np.uint8), "depth": np.ones((9, 8))}, "depth must be .* as the image"),
        ({"image": np.ones((9, 9, 3), np.uint8), "depth": np.full((9, 9), 0.4)}, "depth seems to be in metres"),
        ({"image": np.ones((9, 9, 3), np.float32)}, r"image must be \(H, W, 3\) uint8, RGB, got float32"),
    ],
)
def test_records_of_another_form(change, fault):
    """A user's own data set can return anything; without the check these end in a traceback, or train."""
    records = many(4)
    records[2] = dataclasses.replace(records[2], **change)
    with pytest.raises(UserError, match=f"record 2 of list.*: {fault}"):
        set_checks.check({"data.train": records})


def test_a_set_without_records():
    with pytest.raises(UserError, match="contains no records"):
        set_checks.check({"data.train": []})
    with pytest.raises(UserError, match="must be a jaxhand.data.record.Record, got dict"):
        set_checks.check({"data.train": [{}, {}]})
