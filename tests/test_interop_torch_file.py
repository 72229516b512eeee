"""Files of torch.save, written without and with PyTorch: tensors are read exactly, code is refused."""

import collections
import json
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.interop import safetensors, torch_file
from jaxhand.interop.tensor import Tensor
from tests.support.torch_files import Saved, named, save

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(4, 6)).astype(np.float32)


def read_all(tree):
    """Nested dicts with their tensors read."""
    if isinstance(tree, Tensor):
        return tree.read()
    return {key: read_all(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def test_every_layout_of_a_tensor(tmp_path):
    base = MATRIX.reshape(-1)
    saved = {
        "whole": Saved(base, (4, 6)),
        "transposed": Saved(base, (6, 4), (1, 6)),
        "column": Saved(base, (4,), (6,), 2),
        "window": Saved(base, (2, 3), (6, 1), 7),
        "every other": Saved(base, (2, 3), (12, 2), 1),
        "repeated": Saved(base, (3, 6), (0, 1), 6),
        "number": Saved(base, (), (), 23),
        "empty": Saved(base[:0], (0, 5)),
    }
    save(tmp_path / "a.pt", {"state_dict": collections.OrderedDict(saved), "epoch": 3})
    found = torch_file.read(tmp_path / "a.pt")
    assert found["epoch"] == 3 and isinstance(found["state_dict"], collections.OrderedDict)
    arrays = read_all(found["state_dict"])
    np.testing.assert_array_equal(arrays["whole"], MATRIX)
    np.testing.assert_array_equal(arrays["transposed"], MATRIX.T)
    np.testing.assert_array_equal(arrays["column"], MATRIX[:, 2])
    np.testing.assert_array_equal(arrays["window"], MATRIX[1:3, 1:4])
    np.testing.assert_array_equal(arrays["every other"], MATRIX[::2, 1::2])
    np.testing.assert_array_equal(arrays["repeated"], np.tile(MATRIX[1], (3, 1)))
    assert arrays["number"] == MATRIX[3, 5] and arrays["empty"].shape == (0, 5)
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:  # one storage for all views of it
        assert len([name for name in archive.namelist() if "/data/" in name]) == 2


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        *[(kind, np.float32) for kind in ("<f4", "<f8", "<f2", ml_dtypes.bfloat16)],
        *[(kind, kind) for kind in ("<i8", "<i4", "<i2", "i1", "u1", "?")],
    ],
    ids=str,
)
def test_types(tmp_path, dtype, wanted):
    values = (RNG.normal(0, 3, (3, 5)) > 0 if dtype == "?" else RNG.normal(0, 3, (3, 5))).astype(dtype)
    save(tmp_path / "a.pt", {"x": values})
    found = torch_file.read(tmp_path / "a.pt")["x"].read()
    assert found.dtype == wanted
    np.testing.assert_array_equal(found, values.astype(wanted))


def test_objects_of_other_libraries_are_none(tmp_path):
    """Settings in Lightning's format: instances with a state, items and entries, calls, types, and a parameter."""
    settings = named("yacs.config", "CfgNode", dict)(WIDTH=7)
    settings.__dict__ = {"__immutable__": True}
    listed = named("omegaconf.listconfig", "ListConfig", list)([1, 2])
    metadata = named("omegaconf.base", "ContainerMetadata")()
    metadata.ref_type, metadata.key_type = named("typing", "Any"), int
    adam = named("torch.optim.adamw", "AdamW")()
    called = Call(named("torch", "device"), ("cuda", 0))
    extra = [settings, listed, metadata, adam, called, collections.Counter("aab"), collections.defaultdict(dict)]
    tree = {"hyper_parameters": {"cfg": settings, "all": extra}, "lr": np.float64(0.1), "p": Parameter(MATRIX)}
    save(tmp_path / "a.ckpt", tree)
    found = torch_file.read(tmp_path / "a.ckpt")
    assert found["hyper_parameters"] == {"cfg": None, "all": [None] * 7}
    assert found["lr"] == 0.1
    np.testing.assert_array_equal(found["p"].read(), MATRIX)


class Call:
    """Pickled as a call."""

    def __init__(self, function, arguments, state=None):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


class Parameter(Call):
    """A parameter as PyTorch pickles it."""

    def __init__(self, array):
        super().__init__(named("torch._utils", "_rebuild_parameter"), (array, True, collections.OrderedDict()))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *[("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load")],
        *[("torch.hub", "load"), ("shutil", "rmtree"), ("torch._utils", "_rebuild_sparse_tensor")],
        *[("numpy", "fromfile"), ("torch.serialization", "load"), ("__main__", "Model"), ("functools", "partial")],
        *[("torch", "ComplexFloatStorage"), ("yacs_evil", "CfgNode"), ("jaxhand.interop.torch_file", "read")],
    ],
)
def test_anything_else_is_refused_by_its_name(tmp_path, module, name):
    target = tmp_path / "owned"
    save(tmp_path / "a.pt", {"x": Call(named(module, name), (f"touch {target}",))})
    refused = rf"^{tmp_path}/a.pt: data.pkl: refers to .*{module}.{name}: refused"
    with pytest.raises(UserError, match=refused) as error:
        torch_file.read(tmp_path / "a.pt")
    assert "\n" not in str(error.value) and not target.exists()


def test_a_state_cannot_redirect_a_tensor_to_another_file(tmp_path):
    """What a pickle sets on a tensor after it was made has no effect."""
    tensor = Call(named("torch._utils", "_rebuild_tensor_v2"), (MATRIX,), {"file": "/etc/passwd", "_tensor": 1})
    tensor.call = tensor.call[0], Saved(MATRIX.reshape(-1), (4, 6)).arguments(), tensor.call[2]
    save(tmp_path / "a.pt", {"x": tensor})
    np.testing.assert_array_equal(torch_file.read(tmp_path / "a.pt")["x"].read(), MATRIX)


WRONG = {
    "beyond the end": (Saved(MATRIX.reshape(-1), (5, 6)), "in a storage of 24 elements"),
    "beyond the end by offset": (
        Saved(MATRIX.reshape(-1), (4, 6), (6, 1), 1),
        "and offset 1 in a storage of 24 elements",
    ),
    "negative": (Saved(MATRIX.reshape(-1), (4, -6)), "a tensor with invalid offset, shape or strides"),
    "negative stride": (Saved(MATRIX.reshape(-1), (4,), (-1,), 3), "a tensor with invalid offset, shape or strides"),
    "strides": (Saved(MATRIX.reshape(-1), (4, 6), (1,)), "with strides"),
    "endless": (Saved(MATRIX.reshape(-1), (10**12,), (0,)), r"a tensor \(1000000000000,\) in a file of \d+ bytes"),
}


@pytest.mark.parametrize("tensor", WRONG)
def test_tensors_that_cannot_be(tmp_path, tensor):
    save(tmp_path / "a.pt", {"x": WRONG[tensor][0]})
    with pytest.raises(UserError, match=WRONG[tensor][1]) as error:
        torch_file.read(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """Rewrite the archive with `change(name, content)` as new contents; None leaves a member out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            if (changed := change(name, content)) is not None:
                archive.writestr(name, changed)


def test_damaged_and_foreign_files_are_one_line(tmp_path):
    path = tmp_path / "a.pt"

    def refused(change, message):
        save(path, {"x": MATRIX, "y": MATRIX[:2].copy()})
        change()
        with pytest.raises(UserError, match=message) as error:
            for tensor in torch_file.read(path).values():
                tensor.read()
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)

    def without(name):
        return lambda: rewritten(path, lambda member, content: None if member.endswith(name) else content)

    def flip():
        content = bytearray(path.read_bytes())
        content[content.index(MATRIX.tobytes()) + 5] ^= 1
        path.write_bytes(content)

    size = len(MATRIX.tobytes())
    refused(lambda: path.write_bytes(path.read_bytes()[:-30]), "is truncated; download it again")
    refused(lambda: path.write_bytes(path.read_bytes()[:300]), "is truncated; download it again")
    refused(without("data/1"), r"data.pkl: .*\(data/1 is missing\)")
    refused(without("data.pkl"), "a zip archive, but not one of torch.save: it has 0 members data.pkl, not 1")
    refused(
        lambda: rewritten(path, lambda name, content: content[:-4] if name.endswith("data/0") else content),
        f"data/0 has {size - 4} bytes, not 24 elements of float32",
    )
    refused(
        lambda: rewritten(path, lambda name, content: b"big" if name.endswith("byteorder") else content),
        "big-endian machine",
    )
    refused(lambda: rewritten(path, lambda name, content: content, zipfile.ZIP_DEFLATED), "is compressed")
    refused(
        lambda: rewritten(path, lambda name, content: content[:-20] if name.endswith("pkl") else content),
        "damaged or incomplete pickle",
    )
    refused(flip, r"is damaged \(wrong checksum\); download the file again")
    refused(lambda: path.write_bytes(b"<!DOCTYPE html><html>sign in"), "begins with b'<!DOCTYPE html")
    refused(lambda: path.write_bytes(b""), "not a file of torch.save: the file begins with b''")
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    refused(
        lambda: path.write_bytes(legacy),
        r"before version 1.6; save the file again with PyTorch: torch.save\(torch.load",
    )
    refused(path.unlink, "cannot be read")
    refused(lambda: path.unlink() or path.mkdir(), "cannot be read")


def test_a_file_without_its_middle_or_its_end(tmp_path):
    path, large = tmp_path / "a.pt", RNG.normal(size=1000).astype(np.float32)
    save(path, {"x": large})
    [tensor] = torch_file.read(path).values()
    content = path.read_bytes()
    begin, directory = content.index(large.tobytes()), content.index(b"PK\x01\x02")
    path.write_bytes(content[: begin + 20])
    with pytest.raises(UserError, match=f"ends at byte {begin + 20}, inside a tensor; download it again"):
        tensor.read()
    cut = bytearray(content[: begin + 20] + content[directory:])
    cut[-6:-2] = struct.pack("<I", begin + 20)  # where the directory begins
    path.write_bytes(cut)
    with pytest.raises(UserError, match="ends inside data/0; download it again"):
        torch_file.read(path)


def test_files_of_pytorch_itself(tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch to write its files: pip install 'jaxhand[benchmark]'")
    base = torch.from_numpy(MATRIX)
    layer = torch.nn.BatchNorm1d(3)
    saved = {
        "state_dict": {"a": base, "b": base.T, "c": base[1:3, ::2], **layer.state_dict()},
        "parameter": torch.nn.Parameter(base[0]),
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "flag": base > 0,
        "expanded": base[:1].expand(4, 6),
        "channels": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "optimizer_states": [torch.optim.Adam(layer.parameters()).state_dict()],
        "others": [torch.device("cpu"), torch.float32, base.size()],
        "set": {1, 2},
        "numpy": np.arange(3),
    }
    torch.save(saved, tmp_path / "a.ckpt")
    found = torch_file.read(tmp_path / "a.ckpt")
    assert found["set"] == {1, 2} and (found["numpy"] == np.arange(3)).all()
    assert found["optimizer_states"][0]["param_groups"][0]["betas"] == (0.9, 0.999)
    for name, tensor in found["state_dict"].items():
        np.testing.assert_array_equal(tensor.read(), saved["state_dict"][name].detach().numpy())
    for name in ("parameter", "half", "brain", "double", "flag", "expanded", "channels"):
        wanted = saved[name].float() if saved[name].is_floating_point() else saved[name]
        np.testing.assert_array_equal(found[name].read(), wanted.detach().numpy())
    torch.save(saved["state_dict"], tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="before version 1.6"):
        torch_file.read(tmp_path / "legacy.pth")
    torch.serialization.set_crc32_options(False)  # such files have 0 instead of checksums
    try:
        torch.save(saved["state_dict"], tmp_path / "b.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(torch_file.read(tmp_path / "b.pt")["a"].read(), MATRIX)


def safetensors_of(entries: dict, content: bytes) -> bytes:
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + content


def test_safetensors(tmp_path):
    path, brain = tmp_path / "a.safetensors", MATRIX.astype(ml_dtypes.bfloat16)
    content = MATRIX.tobytes() + brain.tobytes()
    entries = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [4, 6], "data_offsets": [0, 96]},
        "b": {"dtype": "BF16", "shape": [24], "data_offsets": [96, 144]},
    }
    path.write_bytes(safetensors_of(entries, content))
    found = safetensors.read(path)
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"].read(), MATRIX)
    np.testing.assert_array_equal(found["b"].read(), brain.reshape(-1).astype(np.float32))

    def refused(whole: bytes, message):
        path.write_bytes(whole)
        with pytest.raises(UserError, match=message) as error:
            safetensors.read(path)
        assert "\n" not in str(error.value)

    def entry(**changes):
        return safetensors_of({"a": entries["a"] | changes}, content)

    whole = safetensors_of(entries, content)
    refused(whole[:-1], "'b': its offsets are beyond the end of the file")
    refused(whole[:50], "header cannot be read")
    refused(b"", "header cannot be read")
    refused(b"\xff" * 100, "header cannot be read")
    refused(safetensors_of([1], b""), "header cannot be read")
    refused(entry(dtype="F8_E4M3"), "'a': its type 'F8_E4M3' is unknown")
    refused(entry(shape=[5, 6]), "'a': has 96 bytes, not 30 elements of F32")
    refused(entry(shape=[-4, -6]), "'a': its type, shape or offsets are missing or invalid")
    refused(entry(data_offsets=[0]), "'a': its type, shape or offsets are missing or invalid")
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        safetensors.read(path)


def test_elements_from_the_first_to_the_last():
    span = lambda shape, strides: Tensor(Path("x"), 0, np.dtype("<f4"), shape, strides).span  # noqa: E731
    assert span((), ()) == span((1, 1), (7, 9)) == 1
    assert span((2, 3), (3, 1)) == 6 and span((2, 3), (10, 2)) == 15 and span((4,), (0,)) == 1
    assert span((3, 0), (1, 1)) == 0
