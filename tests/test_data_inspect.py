"""The inspector: complete and half-downloaded sets, units, orders, sides, the contact sheet; real samples."""

import json

import cv2
import numpy as np
import pytest

from jaxhand import inspect as command
from jaxhand.config import UserError
from jaxhand.data import inspect, pack
from jaxhand.hand import anatomy
from jaxhand.hand.draw import FINGER_COLORS
from jaxhand.hand.skeleton import JOINT_ORDERS, from_our_order, to_our_order
from tests.support import layouts, layouts_freihand, layouts_hamer, layouts_hint, layouts_ho3d, layouts_rhd


@pytest.fixture
def inspected(monkeypatch):
    """Inspect as if no count was published: returns the faults, and the report as one text."""

    def inspected(kind, path, **options) -> tuple[list[str], str]:
        monkeypatch.setattr(inspect, "PUBLISHED", {})
        lines = []
        return inspect.inspect(kind, path, say=lines.append, **options), "\n".join(lines)

    return inspected


def test_a_complete_set(tmp_path, inspected):
    folder = layouts_freihand.write(tmp_path, released=True)
    faults, account = inspected("freihand", folder)
    assert faults == []
    assert "train: 20 hands in 20 images; 4 of the hands can be held out as val\n" in account
    assert "test: 3 hands in 3 images\n" in account
    assert "focal length 480 … 482 … 484 px" in account
    z = np.concatenate([1000 * layouts_freihand.joints("training", k)[:, 2] for k in range(5)])
    assert f"distance  {z.min():.4g} … {np.median(z):.4g} … {z.max():.4g} mm" in account
    assert "20 of 20 images are there; 20 hands were decoded" in account
    faults, account = inspected("freihand-hom", folder, splits=["train"])
    assert faults == [] and account.startswith("train: 5 hands in 5 images") and "test" not in account


def test_a_half_downloaded_set(tmp_path, inspected):
    folder = layouts_freihand.write(tmp_path)
    rgb = folder / "training/rgb"
    for number in (3, 4, 11):
        (rgb / f"{number:08d}.jpg").unlink()
    (rgb / "00000009.jpg").write_bytes(b"")
    (rgb / "00000015.jpg").write_bytes((rgb / "00000016.jpg").read_bytes()[:-500])  # there, but cut off
    (folder / "evaluation_K.json").unlink()
    faults, account = inspected("freihand", folder)
    assert faults[0] == ("train: half-downloaded: 4 of 20 images are missing or empty, first training/rgb/00000003.jpg")
    assert faults[1].startswith("train: 1 of 16 hands decoded cannot be read, first: image ")
    assert faults[1].endswith("training/rgb/00000015.jpg is not an image or is cut off")
    assert faults[2].startswith("test: half-downloaded or damaged: ") and "evaluation_K.json" in faults[2]
    assert len(faults) == 3
    assert "16 of 20 images are there; 16 hands were decoded" in account


def test_some_or_all_images_are_decoded(tmp_path, inspected, monkeypatch):
    folder = layouts_freihand.write(tmp_path)
    (folder / "training/rgb/00000001.jpg").write_bytes(b"no image")
    monkeypatch.setattr(inspect, "MAX_DECODED", 2)  # the first and the last
    assert inspected("freihand", folder, splits=["train"])[0] == []
    faults, account = inspected("freihand", folder, splits=["train"], decode_all=True)
    assert "1 of 20 hands decoded cannot be read" in faults[0] and "20 hands were decoded" in account


def test_counts_are_compared_with_those_published(tmp_path):
    lines = []
    faults = inspect.inspect("freihand", layouts_freihand.write(tmp_path), say=lines.append)
    assert lines[0].startswith("train: 20 hands in 20 images (published: 130,240)")
    assert faults[0] == "train: half-downloaded: labels of 20 images, where 130,240 are published"
    assert faults[1] == "test: half-downloaded: labels of 3 images, where 3,960 are published"


def test_labels_that_are_missing_in_ho3d(tmp_path, inspected):
    folder = layouts_ho3d.write(tmp_path)
    (folder / "train/ABF10/meta/0002.pkl").unlink()
    (folder / "train/MC1/meta/0000.pkl").unlink()
    (folder / "evaluation/SM1/rgb/0001.jpg").unlink()
    train, test = inspected("ho3d", folder)[0]
    assert train.startswith("train: half-downloaded or damaged: ")
    assert "ABF10/meta/0002.pkl: 2 of" in train and "files are missing; download the set again" in train
    assert test.endswith("1 of 6 images are missing or empty, first evaluation/SM1/rgb/0001.jpg")


def test_two_hands_of_an_image_are_one_file(tmp_path, inspected):
    folder = layouts_rhd.write(tmp_path)
    (folder / "training/color/00002.png").unlink()
    faults, account = inspected("rhd", folder)
    assert account.startswith("train: 7 hands in 4 images")
    assert faults == ["train: half-downloaded: 1 of 4 images are missing or empty, first training/color/00002.png"]


def test_sets_that_need_their_images_for_labels(tmp_path, inspected):
    folder = layouts_hint.write(tmp_path)
    (folder / "TEST_newdays_img/clip_1_l.jpg").unlink()
    faults, account = inspected("hint", folder, splits=["test"])
    assert len(faults) == 1 and "1 of 12 images are missing" in faults[0] and "clip_1_l.jpg" in faults[0]
    assert "0% with joints in 3D" in account and "focal" not in account  # a nominal camera is not reported


def test_tars(tmp_path, inspected):
    folder = layouts_hamer.write_tars(tmp_path, tars=4, samples=2)
    assert inspected("hamer", folder)[0] == []
    (folder / "000001.tar").unlink()
    faults, account = inspected("hamer", folder)
    assert faults == ["half-downloaded: 1 of at least 4 tars are missing, first 000001.tar"]
    assert account.startswith("train: 6 hands in 6 images")


def test_a_packed_set(tmp_path, inspected):
    source, packed = layouts_freihand.write(tmp_path), tmp_path / "packed"
    pack.pack("freihand", source, packed, splits=["train"], say=lambda line: None)
    faults, account = inspected("freihand", packed)
    assert faults == [] and account.startswith("train: 20 hands in 20 images; 4 of") and "test" not in account


def test_a_camera_of_another_size_of_image(tmp_path, inspected):
    folder = layouts_freihand.write(tmp_path)
    cameras = np.array(json.loads((folder / "training_K.json").read_text()))
    cameras[:, :2] *= 3
    (folder / "training_K.json").write_text(json.dumps(cameras.tolist()))
    [fault] = inspected("freihand", folder, splits=["train"])[0]
    assert fault.startswith("train: doubtful: only 0% of the joints lie in their image: K of another size of image")


def test_depth_in_another_unit(tmp_path, inspected):
    joints, K = layouts.hand(0), np.array([[500.0, 0, 128], [0, 500, 128], [0, 0, 1]])
    layouts.write_image(tmp_path / "0.png", layouts.picture(256, 256, layouts.pixels(joints, K)))
    line = {"image": "0.png", "hand": "right", "K": K.tolist(), "joints_3d": joints.tolist(), "depth": "depth.png"}
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    layouts.write_image(tmp_path / "depth.png", np.full((256, 256), 590, np.uint16))
    faults, account = inspected("folder", tmp_path, splits=["train"])
    low, high = 590 / joints[:, 2].max(), 590 / joints[:, 2].min()
    assert faults == [] and "depth     at the joints " in account
    middle = float(account.partition("at the joints ")[2].split(" … ")[1])
    assert low < middle < high
    layouts.write_image(tmp_path / "depth.png", np.full((256, 256), 5900, np.uint16))
    [fault] = inspected("folder", tmp_path, splits=["train"])[0]
    assert fault.startswith(f"train: doubtful: depth at the joints is {10 * middle:.2g}")


# ---- anatomy
@pytest.fixture(scope="module")
def hands() -> np.ndarray:
    """(40, 21, 3) mm."""
    return np.array([layouts.hand(seed) for seed in range(40)])


def test_hands_are_hands(hands):
    assert anatomy.label_warnings(hands) == []
    assert anatomy.label_warnings(0.6 * hands) == []  # a child's
    assert anatomy.bone_lengths(hands)[0, [0, 3, 19]] == pytest.approx(
        [np.linalg.norm(hands[0, a] - hands[0, b]) for a, b in ((0, 1), (3, 4), (19, 20))]
    )


@pytest.mark.parametrize(("unit", "factor"), [("metres", 1000), ("centimetres", 10), ("inches", 25.4)])
def test_units(hands, unit, factor):
    [doubt] = anatomy.label_warnings(hands / factor)
    assert f"in {unit} and not in mm?" in doubt


@pytest.mark.parametrize("name", [name for name, order in JOINT_ORDERS.items() if order != tuple(range(21))])
def test_orders(hands, name):
    same = [other for other, order in JOINT_ORDERS.items() if order == JOINT_ORDERS[name]]
    [doubt] = anatomy.label_warnings(from_our_order(hands, name))
    assert any(f"ordered as in {other}:" in doubt for other in same)
    [doubt] = anatomy.label_warnings(to_our_order(hands, name))
    undone = [f"as if reordered from {other}'s order" for other in same]
    undone += [f"ordered as in {name}:"] * (name == "rhd")  # an order that undoes itself
    assert any(text in doubt for text in undone)
    both = anatomy.label_warnings(from_our_order(hands, name) * (-1, 1, 1) / 1000)
    assert len(both) == 3 and "in metres" in both[1] and "left and right swapped" in both[2]
    [doubt] = anatomy.label_warnings(hands[:, np.random.default_rng(0).permutation(21)])
    assert "fit no hand in any known joint order" in doubt


def test_sides_and_frames(hands):
    assert anatomy.bending_share(hands) > 0.9
    [doubt] = anatomy.label_warnings(hands * (-1, 1, 1))
    assert "mirrored, or left and right swapped?" in doubt
    [doubt] = anatomy.label_warnings(hands * (1, -1, -1))
    assert "behind the camera" in doubt and "negate y and z" in doubt


# ---- the sheet, the command
def test_the_sheet_shows_hands_as_they_are(tmp_path, inspected):
    folder = layouts_rhd.write(tmp_path, training=1, evaluation=1)  # left, right and left, right
    assert inspected("rhd", folder, sheet=tmp_path / "sheet.png")[0] == []
    sheet = cv2.imread(str(tmp_path / "sheet.png"), cv2.IMREAD_COLOR_RGB)
    cells = [sheet[:, 228 * k : 228 * k + 224] for k in range(4)]
    assert sheet.shape == (224, 4 * 228 - 4, 3)
    for k, cell in enumerate(cells):
        thumb, little = (_mean_x(cell, FINGER_COLORS[finger]) for finger in (0, 4))
        assert (thumb > little) == (k % 2 == 0), k  # seen from the back, fingers up: thumbs of left hands are right


def test_the_sheet_is_not_written_over_a_file_of_the_set(tmp_path):
    folder = layouts_rhd.write(tmp_path, training=1, evaluation=1)
    image = next(folder.rglob("*.png"))
    with pytest.raises(UserError, match="is a file of the data set"):
        inspect.inspect("rhd", folder, sheet=image, say=lambda line: None)


def _mean_x(image, color) -> float:
    return np.nonzero((np.abs(image.astype(int) - color) < 12).all(-1))[1].mean()


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inspect, "PUBLISHED", {})
    folder = layouts_freihand.write(tmp_path)
    assert command.main(["freihand", str(folder), "--sheet", str(tmp_path / "sheet.png")]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[-1] == "Complete: every image exists, and nothing is doubtful."
    assert (tmp_path / "sheet.png").is_file() and f"Written to {tmp_path / 'sheet.png'}" in output
    (folder / "training/rgb/00000003.jpg").unlink()
    assert command.main(["freihand", str(folder), "--all"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("train: half-downloaded: 1 of 20 images are missing")
    assert command.main(["freihand", str(tmp_path / "nowhere")]) == 2
    message = f"error: {tmp_path / 'nowhere'}: no such file or folder; give the path of the data set\n"
    assert capsys.readouterr().err == message
    assert command.main(["freihnad", str(folder)]) == 2
    assert "did you mean 'freihand'?" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot write"):
        inspect.inspect("freihand", folder, sheet=tmp_path / "no/folder.png", say=lambda line: None)


def test_real_samples(shared, tmp_path, inspected):
    for kind, file, count in (("freihand", "freihand/test_freihand.json", 8), ("rhd", "rhd/test_rhd.json", 3)):
        faults, account = inspected(kind, shared / "real" / file, sheet=tmp_path / "sheet.png")
        assert faults == [] and account.startswith(f"test: {count} hands in {count} images\n")
    faults, account = inspected("folder", shared / "real/hand_photos", splits=["test"])
    assert faults == [] and "hands     100% left; 100% with joints in 3D" in account
    real = tmp_path / "interhand"
    for folder, content in (("images/test", "*.jpg"), ("annotations/test", "*.json")):
        (real / folder).mkdir(parents=True)
        for file in (shared / "real/interhand2.6m").glob(content):
            (real / folder / file.name.replace("test_interhand2.6m", "InterHand2.6M_test")).symlink_to(file)
    faults, account = inspected("interhand", real, splits=["test"])
    assert faults == [] and account.startswith("test: 6 hands in 4 images\n")
