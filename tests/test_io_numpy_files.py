"""Files of NumPy: what a header may say, arrays of objects, and messages for damaged files."""

import io
import struct

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.io import numpy_files
from jaxhand.io.numpy_files import read_npy, read_npz


def test_arrays_of_objects_are_read_as_pickles(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.array([{"x": np.ones(2)}, None], object), c=np.array("ä"))
    arrays = read_npz(tmp_path / "a.npz", objects=True)
    assert arrays["a"].tolist() == [0, 1, 2] and arrays["c"] == "ä" and arrays["b"][1] is None
    np.testing.assert_array_equal(arrays["b"][0]["x"], [1, 1])


def header(shape, kind="<f8", version=1) -> bytes:
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_the_header(tmp_path, version):
    (tmp_path / "a.npy").write_bytes(header((2, 3), version=version) + np.arange(6.0).tobytes())
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), np.arange(6.0).reshape(2, 3))


def test_an_array_must_fit_into_its_file(tmp_path):
    """Of the size that the file has after the header: as many elements, and no more."""
    path = tmp_path / "a.npy"
    for shape, fits in (((6,), True), ((7,), False), ((-1,), False), ((2**40, 2**40), False), ((0,), True)):
        path.write_bytes(header(shape) + bytes(48))
        if fits:
            assert read_npy(path).shape == shape
        else:
            with pytest.raises(UserError, match=r"a.npy: damaged or incomplete .npy file .* in 48 bytes"):
                read_npy(path)
    for axes, fits in ((32, True), (33, False)):
        path.write_bytes(header((1,) * axes) + bytes(8))
        if fits:
            assert read_npy(path).ndim == 32
        else:
            with pytest.raises(UserError, match="damaged or incomplete"):
                read_npy(path)
    path.write_bytes(header((10**9,), "<U0") + bytes(8))  # elements of no size count as bytes
    with pytest.raises(UserError, match="damaged or incomplete"):
        read_npy(path)


def test_some_arrays_of_an_archive(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(2), b=np.zeros(3))
    assert set(read_npz(tmp_path / "a.npz")) == {"a", "b"} == set(numpy_files.names_in(tmp_path / "a.npz"))
    assert set(read_npz(tmp_path / "a.npz", ("b", "c"))) == {"b"}


def test_objects_are_refused_unless_asked_for(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    with pytest.raises(UserError, match="a.npz: damaged or incomplete .npz file"):
        read_npz(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.array([{}], object))
    with pytest.raises(UserError, match="a.npy: damaged or incomplete .npy file"):
        read_npy(tmp_path / "a.npy")


def test_messages_can_be_given(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"a.npz: not MANO's .npz file \(.+\)$"):
        read_npz(tmp_path / "a.npz", fault="not MANO's {} file ({})")
    with pytest.raises(UserError, match=r"b.npy: cannot be read \(No such file or directory\)"):
        read_npy(tmp_path / "b.npy")
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    (tmp_path / "a.npy").write_bytes(buffer.getvalue()[:-1])
    with pytest.raises(UserError, match="damaged or incomplete .npy file"):
        read_npy(tmp_path / "a.npy")
