"""Packed sets: every record equals its source's, interrupted packing continues, and damage is named."""

import json
import pickle

import cv2
import numpy as np
import pytest

from jaxhand import data
from jaxhand.config import UserError, load
from jaxhand.data import pack as packing
from jaxhand.data.datasets import folder
from jaxhand.data.datasets.packed import Manifest
from jaxhand.data.images.encoded import decode
from jaxhand.data.pack import pack
from jaxhand.data.pipeline import train_iterator
from jaxhand.data.record import Record

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (4, 24, 32, 3), dtype=np.uint8)
DEPTHS = [None, RNG.integers(0, 2**16, (24, 32)).astype(np.float32), RNG.uniform(0, 900, (24, 32)).astype(np.float32)]
HELD_OUT = (3, 4)  # of train


class Source:
    """Records of every kind: with and without mesh, depth in whole mm and not, labelled in 2D only, without a file."""

    def __init__(self, indices, prefix=""):
        self.indices, self.prefix = list(indices), prefix

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        return self.record(self.indices[i])

    def record(self, i):
        rng, more = np.random.default_rng(i), {}
        if i % 4 == 0:
            more = {"vertices": rng.normal(size=(778, 3)).astype(np.float32), "mano_shape": rng.normal(size=10)}
        if i % 4 == 1:
            more = {"keypoints_2d": rng.uniform(0, 20, (21, 2)), "joint_valid_2d": np.ones(21)}
        if i % 4 == 2:
            more = {"bbox": [1, 2, 10, 20]}
        return Record(
            image=IMAGES[i % 4],
            K=np.eye(3),
            keypoints_3d=rng.normal(size=(21, 3)).astype(np.float32 if i % 2 else np.float64) + [0, 0, 500],
            joint_valid=np.full(21, i % 2, np.float32),
            hand="left" if i % 3 else "right",
            depth=DEPTHS[i % 3],
            name=f"{self.prefix}{i}.jpg#é",
            **more,
        )


class WithFiles(Source):
    """Records from image files; at odd indices the record differs from its file."""

    def record(self, i):
        record = super().record(i)
        image = decode(self.file(i))
        return Record(**vars(record) | {"image": image if i % 2 == 0 else 255 - image})

    def encoded(self, i):
        return self.file(self.indices[i]), None

    def file(self, i):
        return cv2.imencode(".jpg", IMAGES[i % 4])[1].tobytes()


def assert_same(one, two):
    assert len(one) == len(two)
    for i in [*range(len(one)), -1]:
        a, b = vars(one[i]), vars(two[i])
        for key in b:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{key} of {i}")
            assert np.asarray(a[key]).dtype == np.asarray(b[key]).dtype, key
        label = vars(one.read_annotation(i))
        assert label["image"] is None and label["depth"] is None
        assert label["name"] == b["name"] and np.array_equal(label["keypoints_3d"], b["keypoints_3d"])


@pytest.fixture
def sets(monkeypatch):
    """Folder sets: ten training records, of which two are held out, and a test set."""
    kind = {"of": Source, "count": 10}

    def load(path, split, *, variant="", without_val=False, mano=None):
        if split == "test":
            return kind["of"](range(100, 103), "test/")
        train = range(kind["count"])
        if split == "val" or without_val:
            train = [i for i in train if (i in HELD_OUT) == (split == "val")]
        return kind["of"](train)

    monkeypatch.setattr(folder, "load", load)
    return kind


def packed(tmp_path, **options):
    lines = []
    pack("folder", "source", tmp_path / "out", shard_size=4, say=lines.append, **options)
    return tmp_path / "out", lines


def shards(out):
    return sorted(file.name for file in out.iterdir())


@pytest.mark.parametrize("source", [Source, WithFiles])
def test_every_record_is_equal_to_its_source(sets, source, tmp_path):
    sets["of"] = source
    out, lines = packed(tmp_path)
    assert lines[-1] == f"train 10, val 2, test 3 records: read folder:{out}"
    assert shards(out) == ["packed.json", "test-00000-of-00001.array_record"] + [
        f"train-{i:05d}-of-00003.array_record" for i in range(3)
    ]  # what is held out is packed once
    for split, without_val in (("train", False), ("train", True), ("val", False), ("test", False)):
        assert_same(
            data.read("folder", out, split, without_val=without_val),
            folder.load("source", split, without_val=without_val),
        )
    manifest = Manifest.read(out)
    assert manifest.complete and [shard["count"] for shard in manifest.splits["train"]["shards"]] == [4, 4, 2]


def test_files_are_kept_as_they_are(sets, tmp_path):
    sets["of"] = WithFiles
    out, _ = packed(tmp_path, splits=["train"])
    whole = b"".join((out / shard["file"]).read_bytes() for shard in Manifest.read(out).splits["train"]["shards"])
    assert WithFiles([0]).file(0) in whole and WithFiles([0]).file(2) in whole
    assert WithFiles([0]).file(1) not in whole and b"\x89PNG" in whole


def test_training_reads_the_same_batches(sets, tmp_path):
    out, _ = packed(tmp_path)
    config = load(None, ["training.batch_size=4", "data.image_size=16", f"data.train=folder:{out}"])
    one = train_iterator(data.load(config.data.train, "train", config.data, 0), config)
    two = train_iterator(folder.load("source", "train"), config)
    for _ in range(4):
        a, b = next(one), next(two)
        for key in b:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)

    source = data.load(config.data.train, "train", config.data, 0)
    np.testing.assert_array_equal(source[0].K, pickle.loads(pickle.dumps(source))[0].K)  # for another process


def test_interrupted_packing_goes_on(sets, tmp_path, monkeypatch):
    encode, seen = packing.encode, []

    def interrupted(source, i):
        seen.append(i)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return encode(source, i)

    monkeypatch.setattr(packing, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path)
    out = tmp_path / "out"
    assert "train-00000-of-00003.array_record" in shards(out) and len(Manifest.read(out).splits["train"]["shards"]) == 1
    with pytest.raises(UserError, match="packing was not finished; run `jaxhand pack folder"):
        data.read("folder", out, "train")
    first = (out / "train-00000-of-00003.array_record").stat().st_mtime_ns
    _, lines = packed(tmp_path)
    assert lines[0] == "train 1/3: kept" and lines[1].startswith("train 2/3: 4 records")
    assert (out / "train-00000-of-00003.array_record").stat().st_mtime_ns == first
    assert not [name for name in shards(out) if name.endswith(".part")]
    assert_same(data.read("folder", out, "train"), folder.load("source", "train"))
    _, lines = packed(tmp_path)
    assert lines[:4] == ["train 1/3: kept", "train 2/3: kept", "train 3/3: kept", "test 1/1: kept"]


def test_damage_is_named_and_mended(sets, tmp_path):
    out, _ = packed(tmp_path)
    file = out / "train-00001-of-00003.array_record"
    content = bytearray(file.read_bytes())
    content[content.index(b"left")] ^= 1
    file.write_bytes(content)
    source = data.read("folder", out, "train")
    assert source[0].name == "0.jpg#é"
    with pytest.raises(UserError, match=r"train-00001-of-00003.array_record: damaged at record \d+ \(.*\); pack the"):
        for i in range(4, 8):
            source[i]
    file.write_bytes(content[:1000])
    with pytest.raises(UserError, match=rf"{file}: has 1,000 of [\d,]+ bytes; run `jaxhand pack"):
        data.read("folder", out, "train")
    file.unlink()
    with pytest.raises(UserError, match=f"{file}: has 0 of"):
        data.read("folder", out, "train")
    file.write_bytes(content)  # of the right size: only the checksum differs
    _, lines = packed(tmp_path)
    assert [line.endswith("kept") for line in lines[:4]] == [True, False, True, True]
    assert_same(data.read("folder", out, "train"), folder.load("source", "train"))


def test_sets_that_cannot_be_packed_or_read_are_refused(sets, tmp_path):
    out, _ = packed(tmp_path, splits=["train"])
    with pytest.raises(UserError, match=r"the split test was not packed \(only train\)"):
        data.read("folder", out, "test")
    assert len(data.read("folder", out, "val")) == 2  # it is held out of train
    with pytest.raises(UserError, match=f"contains folder, not .*; use folder:{out}"):
        data.read("dexycb-s1", out, "train")
    with pytest.raises(UserError, match="contains folder in shards of 4, not folder in shards of 5; choose another"):
        pack("folder", "source", out, shard_size=5)
    sets["count"] = 9
    with pytest.raises(UserError, match="train had 10 records, but now has 9"):
        packed(tmp_path)
    with pytest.raises(UserError, match="--shard-size must be at least 1, got 0"):
        pack("folder", "source", out, shard_size=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="mine: is not empty and contains no packed set"):
        pack("folder", "source", tmp_path / "mine")
    with pytest.raises(UserError, match="thesis.tex/out: cannot write"):
        pack("folder", "source", tmp_path / "mine" / "thesis.tex" / "out")
    manifest = json.loads((out / "packed.json").read_text())
    (out / "packed.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(UserError, match="packed.json: has format 2, but must have 1"):
        data.read("folder", out, "train")
    train = manifest["splits"]["train"]
    for content in (
        "{",
        "[" * 10**5,
        json.dumps(manifest | {"splits": {"train": train | {"count": 10**12}}}),
        json.dumps(manifest | {"splits": {"train": train | {"held_out": [10**6]}}}),
        json.dumps(manifest | {"splits": {"train": train | {"shards": [train["shards"][0] | {"file": "../a"}]}}}),
        json.dumps(manifest | {"splits": {"train": {"count": 10}}}),
    ):
        (out / "packed.json").write_text(content)
        with pytest.raises(UserError, match="packed.json: is damaged"):
            data.read("folder", out, "train")


def test_another_source_of_the_same_size_is_noticed(sets, tmp_path):
    packed(tmp_path)

    class Other(Source):
        def record(self, i):
            return Record(**vars(super().record(i)) | {"hand": "right"})

    sets["of"] = Other
    with pytest.raises(UserError, match=r"train: record \d \(\d.jpg#é\) differs in hand from its source"):
        packed(tmp_path)


@pytest.mark.parametrize("change", ["another count", "other labels", "another name", "a broken source"])
def test_a_finished_pack_stays_as_it_is_when_another_set_is_refused(sets, tmp_path, change):
    out, _ = packed(tmp_path)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    class Other(Source):
        def record(self, i):
            record = super().record(i)
            return Record(**vars(record) | {"keypoints_3d": record.keypoints_3d + 1})

    class Broken(Source):
        def record(self, i):
            raise UserError("lost")

    sets.update(
        {"another count": {"count": 11}, "other labels": {"of": Other}, "a broken source": {"of": Broken}}.get(
            change, {}
        )
    )
    with pytest.raises(UserError):
        pack("dexycb" if change == "another name" else "folder", "source", out, shard_size=4, say=lambda line: None)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    sets.update(of=Source, count=10)
    assert_same(data.read("folder", out, "train"), folder.load("source", "train"))


def test_splits_that_a_set_lacks_are_left_out_unless_asked_for(tmp_path, monkeypatch):
    def load(path, split, *, variant="", without_val=False, mano=None):
        if split == "train":
            return Source(range(3))
        raise UserError(f"{path}: no {split}")

    monkeypatch.setattr(folder, "load", load)
    _, lines = packed(tmp_path)
    assert lines[:2] == ["val is left out: source: no val", "test is left out: source: no test"]
    with pytest.raises(UserError, match="source: no test"):
        packed(tmp_path, splits=["test"])


def test_a_full_disk_is_one_line_and_the_rest_is_kept(sets, disk_of):
    disk = disk_of("200k")
    with pytest.raises(UserError, match=f"{disk}/out: cannot write .*No space left on device.*same command again"):
        pack("folder", "source", disk / "out", shard_size=1, say=lambda line: None)
    assert len(Manifest.read(disk / "out").splits["train"]["shards"]) >= 1
