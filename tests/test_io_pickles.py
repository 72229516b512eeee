"""Pickles of data sets: all protocols and NumPy's old and new names are read, and no code in them runs."""

import collections
import os
import pickle

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.io.pickles import load

VALUES = {
    "floats": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i2"),
    "flags": np.array([True, False]),
    "text": np.array(["a", "äbc"]),
    "bytes": np.array([b"ab", b"c"]),
    "objects": np.array({"reprojection_loss": np.float64(3)}, object),
    "empty": np.zeros((0, 3)),
    "scalars": (np.float32(0.5), np.int64(-3), np.bool_(True), np.str_("ä")),
    "plain": [1, 2**70, -0.5, 1j, None, True, "ä", b"\xff\x00", b"", {1}, frozenset({2}), (3,)],
    "a dtype": np.dtype("<f4"),
    "nested": {"a": [np.ones(2), (np.array([np.ones(1), None], object)[:1],)]},
    "ordered": collections.OrderedDict(a=1),
}


def same(a, b):
    if isinstance(b, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), list(b.values())
    if isinstance(b, (list, tuple)):
        for each, other in zip(a, b, strict=True):
            same(each, other)
    elif isinstance(b, np.ndarray):
        assert type(a) is np.ndarray and a.flags.writeable and a.flags.f_contiguous == b.flags.f_contiguous
        assert a.dtype == b.dtype and a.shape == b.shape
        if b.dtype == object:
            same(a.ravel().tolist(), b.ravel().tolist())
        else:
            np.testing.assert_array_equal(a, b)
    else:
        assert a == b and type(a) is type(b)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read(protocol, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(VALUES, protocol=protocol))
    read = load(tmp_path / "a.pkl")
    assert list(read) == list(VALUES)
    same(read, VALUES)
    assert type(read["ordered"]) is collections.OrderedDict


def test_names_of_numpy_1_and_2():
    for protocol in (0, 2, 4, 5):
        content = pickle.dumps(np.arange(3.0), protocol=protocol)
        if protocol < 4:
            assert b"numpy._core" in content
            content = content.replace(b"numpy._core", b"numpy.core")
        np.testing.assert_array_equal(load(content, "a"), np.arange(3.0))


def test_a_pickle_of_python_2():
    """Its raw bytes are `str`, written at protocol 2 as BINSTRING; so is the text of its keys."""
    dtype = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x02\x85" + dtype + b"\x89"
    raw = np.array([1.5, -2.5]).tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state
    content = b"\x80\x02}U\x08handPose" + array + b"U\x10" + raw + b"tbs."
    assert list(load(content, "meta")) == ["handPose"]
    np.testing.assert_array_equal(load(content, "meta")["handPose"], [1.5, -2.5])


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class States:
    """Pickled as `function(*arguments)` and then a state."""

    def __init__(self, function, arguments, state):
        self.all = function, arguments, state

    def __reduce__(self):
        return self.all


@pytest.mark.parametrize("protocol", (0, 2, 4, 5))
@pytest.mark.parametrize(
    "hostile, named",
    [
        (Runs(os.system, "touch {}"), r"posix\.system|nt\.system"),
        (Runs(eval, "open({!r}, 'w')"), r"(builtins|__builtin__)\.eval"),
        (Runs(getattr, "a", "upper"), r"(builtins|__builtin__)\.getattr"),
        (os.path.join, r"posixpath\.join|ntpath\.join"),
        (np.load, r"numpy\.load"),
        (np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]), r"numpy\.dtype"),
        (np.zeros(2, "V4"), r"numpy\.dtype"),
        (np.ma.zeros(1), r"numpy\.ma\."),
    ],
)
def test_anything_else_is_refused_by_name_and_not_run(hostile, named, protocol, tmp_path):
    mark = tmp_path / "ran"
    if isinstance(hostile, Runs):
        hostile = Runs(hostile.call[0], *(a.format(str(mark)) for a in hostile.call[1]))
    content = pickle.dumps([{"keypoints_2d": np.zeros((21, 3)), "x": hostile}], protocol=protocol)
    with pytest.raises(UserError, match=rf"^000123\.data\.pyd: refers to ({named}).*refused"):
        load(content, "000123.data.pyd")
    assert not mark.exists()


def test_names_with_dots_are_not_resolved_further():
    content = b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93."
    with pytest.raises(UserError, match=r"refers to numpy\.ndarray\.__class__"):
        load(content, "a")


def test_forged_dtypes_do_not_become_pointers():
    """NumPy itself would interpret these eight bytes as the address of an object."""
    without_flags = States(np.dtype, ("O8", False, True), (3, "|", None, None, None, 8, 8, 0))
    shell = np.zeros(0)
    array = States(shell.__reduce__()[0], shell.__reduce__()[1], (1, (1,), without_flags, False, b"\x41" * 8))
    with pytest.raises(UserError, match="damaged or incomplete pickle"):
        load(pickle.dumps(array), "a")
    far = States(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("f8"), 2**30)}, 8, 1, 0))
    with pytest.raises(UserError, match="refused"):
        load(pickle.dumps(far), "a")
    fields = States(np.dtype, ("f8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("f8"), 2**30)}, 8, 1, 0))
    with pytest.raises(UserError, match="refused"):
        load(pickle.dumps(fields), "a")
    for shape in ((2,), (2**40,), (-1,)):
        array = States(shell.__reduce__()[0], shell.__reduce__()[1], (1, shape, np.dtype("f8"), False, b"\x41" * 8))
        with pytest.raises(UserError, match="damaged or incomplete pickle"):
            load(pickle.dumps(array), "a")


def test_attributes_of_the_reader_cannot_be_set():
    """BUILD with a pair sets attributes of the object that a name resolves to."""
    for name in (b"_codecs\nencode", b"numpy\ndtype", b"numpy\nndarray", b"collections\nOrderedDict", b"builtins\nset"):
        with pytest.raises(UserError, match="damaged or incomplete pickle"):
            load(b"\x80\x02c" + name + b"\nN}U\x08__name__U\x01ds\x86b.", "a")


def test_errors_are_one_line_for_any_content():
    """Names with line ends and escapes, persistent ids (their error has two lines), errors without a message."""
    for content, message in (
        (b"\x80\x04\x8c\x04a\n\x1bb\x8c\x01c\x93.", r"refers to a \\x1bb\.c: refused"),
        (b"\x80\x04\x8c\x01aX\xe8\x03\0\0" + b"b" * 1000 + b"\x93.", r"refers to a\.b{118}: refused"),
        (b"Pa\n.", r"damaged or incomplete pickle \(A load persistent id .* specified\.\); download it again"),
        (b"", r"damaged or incomplete pickle \(Ran out of input\)"),
    ):
        with pytest.raises(UserError, match=rf"^a: {message}") as error:
            load(content, "a")
        assert "\n" not in str(error.value)


def test_damage_is_named(tmp_path):
    whole = pickle.dumps(VALUES)
    for end in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(UserError, match="meta/0000.pkl: damaged or incomplete pickle"):
            load(whole[:end], "meta/0000.pkl")
    with pytest.raises(UserError, match="damaged or incomplete pickle"):
        load(b"<html>404</html>", "a")
    with pytest.raises(UserError, match=r"none\.pkl: cannot be read \(No such file"):
        load(tmp_path / "none.pkl")
