"""Files of predictions: written files are read back, other programs' formats are read, a damaged file is named."""

import json
import zipfile

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.evaluation import prediction_files
from jaxhand.evaluation.prediction_files import read, write_dexycb, write_freihand

NAMES = ("xyz", "verts")


@pytest.fixture
def hands():
    """xyz (7, 21, 3) and verts (7, 50, 3) with every kind of number: 17 digits, exponents, integers, negative ones."""
    rng = np.random.default_rng(0)
    xyz, verts = rng.normal(size=(7, 21, 3)), rng.normal(size=(7, 50, 3)) * 10.0 ** rng.integers(-9, 3, (7, 50, 3))
    xyz[2, 3], verts[0, 0] = (1, 0, -2), (1e-300, -0.0, 5e20)
    return xyz, verts


@pytest.fixture
def pred(tmp_path, hands):
    path = tmp_path / "pred.json"
    write_freihand(path, *hands)
    return path


def same(arrays, hands):
    assert list(arrays) == ["xyz", "verts"]
    for array, expected in zip(arrays.values(), hands):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("name", ["pred.json", "pred.zip"])
def test_what_is_written_comes_back_bit_by_bit(tmp_path, hands, name):
    path = tmp_path / name
    write_freihand(path, *hands)
    arrays, files = read(path, NAMES)
    assert files == [path] and list(tmp_path.iterdir()) == [path]
    same(arrays, hands)
    if name == "pred.zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == ["pred.json"]  # as `zip -j` makes it
    write_freihand(path, *(points.astype(np.float32) for points in hands))
    arrays, _ = read(path, NAMES)
    same({key: value.astype(np.float32) for key, value in arrays.items()}, [h.astype(np.float32) for h in hands])


@pytest.mark.parametrize(
    ("layout", "block"),
    [({}, 1), ({}, 7), ({}, 1000), ({"separators": (",", ":")}, 9), ({"indent": 1}, 5000), ({"indent": 1}, 2**20)],
)
def test_any_layout_of_json_in_blocks_of_any_size(tmp_path, hands, monkeypatch, layout, block):
    """The file is read in blocks, and a sample may be cut anywhere by them."""
    monkeypatch.setattr(prediction_files, "BLOCK", block)
    arrays = [points[:3].tolist() for points in hands]
    for content, names in ((arrays, ["xyz", "verts"]), (arrays[0], ["xyz"]), ([arrays[0], []], ["xyz"])):
        (tmp_path / "a.json").write_text(json.dumps(content, **layout))
        found, _ = read(tmp_path / "a.json", NAMES)
        assert list(found) == names
        for name, expected in zip(names, hands):
            np.testing.assert_array_equal(found[name], expected[:3])


def test_a_sample_a_line(tmp_path, hands):
    """Some users join such lines themselves."""
    lists = ("[\n" + ",\n".join(json.dumps(sample) for sample in points.tolist()) + "\n]" for points in hands)
    (tmp_path / "pred.json").write_text("[" + ",\n".join(lists) + "]\n")
    same(read(tmp_path / "pred.json", NAMES)[0], hands)


def test_labels_in_neighbouring_files_are_read(tmp_path, hands):
    for set_name, count in (("training", 7), ("evaluation", 5)):
        for name, points in zip(NAMES, hands):
            (tmp_path / f"{set_name}_{name}.json").write_text(json.dumps(points[:count].tolist()))
    both = [tmp_path / f"evaluation_{name}.json" for name in NAMES]
    for path in (tmp_path, both[0]):  # of a folder, the evaluation set
        arrays, files = read(path, NAMES)
        assert files == both
        same(arrays, [points[:5] for points in hands])
    assert len(read(tmp_path / "training_xyz.json", NAMES)[0]["verts"]) == 7
    assert list(read(both[0], ["xyz"])[0]) == ["xyz"]  # a protocol without vertices does not read them
    both[1].unlink()
    assert list(read(tmp_path, NAMES)[0]) == ["xyz"]
    both[0].rename(tmp_path / "val_xyz.json")
    with pytest.raises(UserError, match=r"found several; give one of training_xyz.json, val_xyz.json"):
        read(tmp_path, NAMES)


def test_dexycb(tmp_path, hands):
    path, ids = tmp_path / "results.txt", np.array([40, 3, 17, 0, 9, 8, 7])
    write_dexycb(path, ids, hands[0])
    arrays, _ = read(path, ["joints"])
    np.testing.assert_array_equal(arrays["id"], ids)
    np.testing.assert_array_equal(arrays["joints"], hands[0])
    first = path.read_text().splitlines()[0].split(",")
    assert first[0] == "40" and len(first) == 64 and float(first[4]) == hands[0][0, 1, 0]
    # numbers, line ends and empty lines of other programs
    rows = [",".join(["+3", *(f"{value:.3f}" for value in hands[0][1].ravel())]), ",".join(["4", *["nan"] * 63])]
    path.write_text("\r\n".join(rows) + "\r\n\r\n")
    arrays, _ = read(path, ["joints"])
    np.testing.assert_allclose(arrays["joints"][0], hands[0][1], atol=6e-4)
    assert arrays["id"].tolist() == [3, 4] and np.isnan(arrays["joints"][1]).all()


def test_numpy(tmp_path, hands):
    np.save(tmp_path / "a.npy", hands[0])
    same(read(tmp_path / "a.npy", NAMES)[0] | {"verts": hands[1]}, hands)
    np.savez(tmp_path / "a.npz", xyz=hands[0], verts=hands[1].astype(np.float32), id=np.arange(7), more=np.zeros(1))
    arrays, _ = read(tmp_path / "a.npz", NAMES)
    assert list(arrays) == ["xyz", "verts", "id"] and arrays["verts"].dtype == np.float32
    np.savez(tmp_path / "b.npz", joints=hands[0])
    with pytest.raises(UserError, match="b.npz: has no array 'xyz'; the arrays are: joints"):
        read(tmp_path / "b.npz", NAMES)
    np.save(tmp_path / "c.npy", np.array([{}], object))
    with pytest.raises(UserError, match="c.npy: not a complete .npy file of numbers"):
        read(tmp_path / "c.npy", NAMES)
    np.save(tmp_path / "c.npy", np.array(["a"]))
    with pytest.raises(UserError, match="'xyz' must contain numbers"):
        read(tmp_path / "c.npy", NAMES)
    for name in ("a.npy", "a.npz"):
        (tmp_path / f"cut_{name}").write_bytes((tmp_path / name).read_bytes()[:600])
        with pytest.raises(UserError, match=f"cut_{name}: not a complete"):
            read(tmp_path / f"cut_{name}", NAMES)


def test_nan_and_null_are_read(tmp_path, hands):
    """The caller decides what to do with them; the file is well formed."""
    text = json.dumps([points.tolist() for points in hands])
    first, second = (repr(float(hands[0][i, 0, 0])) for i in (1, 4))
    (tmp_path / "pred.json").write_text(text.replace(first, "NaN").replace(second, "null"))
    xyz = read(tmp_path / "pred.json", NAMES)[0]["xyz"]
    assert np.argwhere(np.isnan(xyz)).tolist() == [[1, 0, 0], [4, 0, 0]]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_names_the_sample(tmp_path, pred, hands, share):
    text = pred.read_text().strip()
    for end in (int(share * len(text)), len(text) - 1):
        (tmp_path / "cut.json").write_text(text[:end])
        with pytest.raises(UserError, match=r"cut.json: sample \d+ of (xyz|verts): the file is cut off") as error:
            read(tmp_path / "cut.json", NAMES)
    assert "sample 7 of verts" in str(error.value)
    lists = json.dumps(hands[0].tolist())
    (tmp_path / "cut.json").write_text(lists[: lists.index("]], [[") + 2])
    with pytest.raises(UserError, match="cut.json: sample 1 of xyz: the file is cut off"):
        read(tmp_path / "cut.json", NAMES)


def broken(hands, change):
    """JSON of the hands after `change(xyz, verts)` on the nested lists, or of what that builds of them."""
    arrays = [points.tolist() for points in hands]
    made = change(*arrays)
    return json.dumps(arrays if made is None else made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda xyz, verts: xyz[3].__delitem__(0), "sample 3 of xyz has 20 points, but the samples before have 21"),
        (lambda xyz, verts: verts[2][5].__delitem__(0), "sample 2 of verts is ragged: 149 numbers in 50 points"),
        (lambda xyz, verts: xyz[6].clear(), "sample 6 of xyz is"),
        (lambda xyz, verts: xyz[1].__setitem__(0, ["a", "b", "c"]), "sample 1 of xyz is not a list of"),
        (lambda xyz, verts: xyz[1].__setitem__(0, {"x": 1}), "sample 1 of xyz is not a list of"),
        (lambda xyz, verts: xyz.insert(2, [[[0, 0, 0]]]), "sample 2 of xyz is not a list of"),
        (lambda xyz, verts: [xyz, verts, xyz], r"pred.json: contains 3 lists, expected \[xyz, verts\]"),
        (lambda xyz, verts: {"xyz": xyz, "verts": verts}, r"pred.json: must contain \[xyz, verts\]"),
        (lambda xyz, verts: xyz[0], r"pred.json: must contain \[xyz, verts\]"),
        (lambda xyz, verts: [1.0, 2.0], "pred.json: wrong content"),
    ],
)
def test_a_malformed_file_names_the_sample(tmp_path, hands, change, message):
    (tmp_path / "pred.json").write_text(broken(hands, change))
    with pytest.raises(UserError, match=message):
        read(tmp_path / "pred.json", NAMES)


def test_zips(tmp_path, pred, hands):
    def made(**members):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return tmp_path / "a.zip"

    content = pred.read_bytes()
    others = {"__MACOSX/._pred.json": b"x", "notes.json": b"x"}
    same(read(made(**{"results/pred.json": content}, **others), NAMES)[0], hands)
    same(read(made(**{"mine.json": content}), NAMES)[0], hands)
    with pytest.raises(UserError, match="a.zip: must contain one pred.json, found readme.txt"):
        read(made(**{"readme.txt": b""}), NAMES)
    with pytest.raises(UserError, match="must contain one pred.json, found a.json, b.json"):
        read(made(**{"a.json": b"", "b.json": b""}), NAMES)
    with pytest.raises(UserError, match=r"a.zip:pred.json: sample \d+ of verts: the file is cut off"):
        read(made(**{"pred.json": content[:-99]}), NAMES)
    write_freihand(tmp_path / "a.zip", *hands)
    whole = (tmp_path / "a.zip").read_bytes()
    for damaged in (whole[:500], b"", whole[:900] + b"garbage" + whole[907:]):
        (tmp_path / "a.zip").write_bytes(damaged)
        with pytest.raises(UserError, match="a.zip: not a complete zip file, or encrypted"):
            read(tmp_path / "a.zip", NAMES)


def test_dexycb_names_the_line(tmp_path):
    path, good = tmp_path / "results.txt", ",".join(["5"] + ["1.5"] * 63)
    for text, message in (
        (f"{good}\n6,1,2", "line 2 has 3 numbers, not 64"),
        (f"{good}\n{good}", "id 5 is in more than one line"),
        (f"{good}\n{good.replace('5,', '6.5,', 1)}", "line 2 starts with 6.5; an id must be a whole number"),
        (f"{good}\n{good.replace('5,', 'x,', 1)}", "line 2 contains text that is not a number"),
        ("\n", "results.txt: empty"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read(path, ["joints"])


def test_paths_that_are_wrong(tmp_path):
    (tmp_path / "pred.pkl").write_text("")
    (tmp_path / "empty.json").write_text(" ")
    for name, message in (
        ("no.json", "no.json: no such file or folder"),
        ("pred.pkl", "pred.pkl: unknown file format; known formats: pred.json"),
        ("empty.json", "empty.json: wrong content"),
        ("", r"there must be one \*_xyz.json in this folder, found none"),
    ):
        with pytest.raises(UserError, match=message):
            read(tmp_path / name, NAMES)


def test_writers_refuse_and_leave_nothing(tmp_path, hands):
    xyz, verts = hands
    with pytest.raises(UserError, match="sample 2 of xyz is not finite"):
        write_freihand(tmp_path / "pred.json", np.where(xyz == xyz[2, 0, 0], np.nan, xyz), verts)
    with pytest.raises(UserError, match="xyz has 7 samples, but verts has 6"):
        write_freihand(tmp_path / "pred.json", xyz, verts[:6])
    with pytest.raises(UserError, match=r"joints must be \(3, 21, 3\), got"):
        write_dexycb(tmp_path / "a.txt", np.arange(3), xyz)
    with pytest.raises(UserError, match=r"verts must be \(N, points, 3\)"):
        write_freihand(tmp_path / "pred.json", xyz, verts[0])
    with pytest.raises(UserError, match="cannot write .*no/pred.json: No such file or directory"):
        write_freihand(tmp_path / "no" / "pred.json", xyz, verts)
    (tmp_path / "pred.json").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_freihand(tmp_path / "pred.json", xyz, verts)
    assert [path.name for path in tmp_path.iterdir()] == ["pred.json"]
