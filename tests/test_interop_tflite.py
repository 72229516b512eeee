"""The reader of TFLite files: what it returns, and that nothing in a file can end it but a UserError."""

import re
import struct
import zipfile

import numpy as np
import pytest

from jaxhand.config import UserError, limits
from jaxhand.interop import tflite
from tests.support.tflite_files import CODES, Number, flatbuffer, one_convolution, operation, write

KERNEL = np.random.default_rng(0).normal(size=(5, 3, 3, 2)).astype(np.float16)
BIAS = np.arange(5, dtype=np.float32)


@pytest.fixture
def root():
    return one_convolution(KERNEL, BIAS)


def test_a_network_is_read(root, tmp_path):
    network = tflite.read(write(tmp_path / "a.tflite", root))
    assert network.inputs == [(0, "image", (1, 8, 8, 2))] and network.outputs == [(4, "result", (1, 4, 4, 5))]
    [convolution] = network.operations  # the widening is left out
    assert convolution.name == "CONV_2D" and convolution.inputs == (0, 2, 3) and convolution.outputs == (4,)
    strides = {"padding": "SAME", "stride_w": 2, "stride_h": 2}
    assert convolution.options == strides | {"activation": "RELU6", "dilation_w": 1, "dilation_h": 1}
    kernel, bias = convolution.constants
    assert kernel.dtype == np.float16 and (kernel == KERNEL).all() and (bias == BIAS).all()
    assert not kernel.flags.writeable  # a view of the file


def test_unknown_operations_have_a_name(root):
    root[1] = [{0: Number("b", CODES["CUSTOM"])}, {3: Number("<i", 150)}]
    assert [op.name for op in tflite.parse(flatbuffer(root), "a").operations] == ["BUILTIN_150", "CUSTOM"]


def test_archives_are_read(root, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.task", "w") as archive:
        archive.writestr("hand.tflite", flatbuffer(root))
        archive.writestr("notes.txt", "no network")
    [(name, network)] = tflite.read_archive(tmp_path / "a.task", lambda name: name.endswith(".tflite")).items()
    assert name == "hand.tflite" and len(network.operations) == 1
    with pytest.raises(UserError, match=r"a.task: notes.txt: not a .tflite file: the file begins with b'no netwo'"):
        tflite.read_archive(tmp_path / "a.task", lambda name: True)


def test_what_is_no_network_is_named(root, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.tflite: cannot be read \(No such file"):
        tflite.read(tmp_path / "nowhere.tflite")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory"):
        tflite.read(tmp_path)
    for content in (b"", b"TFL3", b"PK\x03\x04 and more", b"\x00" * 100):
        with pytest.raises(UserError, match="a: not a .tflite file: the file begins with b'"):
            tflite.parse(content, "a")
    (tmp_path / "a.whl").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match="a.whl: damaged or incomplete zip archive .*; download it again"):
        tflite.read_archive(tmp_path / "a.whl", lambda name: True)
    root[2] *= 2
    with pytest.raises(UserError, match="a: has 2 networks; only a file with one network can be read"):
        tflite.parse(flatbuffer(root), "a")


def test_constants_that_are_not_read_are_named(root):
    graph = root[2][0]
    graph[0][1][6] = {0: np.int32([0])}
    with pytest.raises(UserError, match="a: constant kernel is sparse; only dense constants can be read"):
        tflite.parse(flatbuffer(root), "a")
    del graph[0][1][6]
    graph[0][3][1] = Number("b", 5)  # a string
    with pytest.raises(UserError, match="a: constant bias has type 5 of TFLite's schema, which cannot be read"):
        tflite.parse(flatbuffer(root), "a")
    graph[0][1][1], root[4][1] = Number("b", 9), {0: np.zeros(KERNEL.size, np.uint8)}
    with pytest.raises(UserError, match="a: has quantised constants; only floating-point constants can be read"):
        tflite.parse(flatbuffer(root), "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: root[2][0][0][3].update({0: np.int32([6])}),
            "constant bias has 20 bytes, which do not fit shape (6,) of float32",
        ),
        (
            lambda root: root[2][0][0][3].update({0: np.int32([-5])}),
            "constant bias has 20 bytes, which do not fit shape (-5,) of float32",
        ),
        (lambda root: root[2][0][0][3].update({2: Number("<I", 9)}), "refers to constant 9, but has 3 constants"),
        (lambda root: root[2][0][3].append(operation(7, [0], [1])), "refers to operation code 7, but has 2 codes"),
        (lambda root: root[2][0][3].append(operation(0, [99], [1])), "refers to tensor 99, but has 5 tensors"),
        (lambda root: root[2][0][3][1][4].update({0: Number("b", 7)}), "CONV_2D has the unknown padding 7"),
    ],
)
def test_contradictions_are_damage(root, change, message):
    change(root)
    with pytest.raises(UserError, match=f"a: {re.escape(message)}; download it again"):
        tflite.parse(flatbuffer(root), "a")


def test_any_damage_is_one_clear_error(root):
    """Truncated anywhere, or with random bytes changed: a network or a UserError of one line, and nothing else."""
    whole, refused, rng = flatbuffer(root), 0, np.random.default_rng(1)
    damaged = [whole[:length] for length in range(len(whole))]
    for _ in range(3000):
        content = bytearray(whole)
        for place in rng.integers(8, len(whole), rng.integers(1, 4)):
            content[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        damaged.append(bytes(content))
    for content in damaged:
        try:
            network = tflite.parse(content, "a")
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
            refused += 1
        else:
            assert sum(array.nbytes for op in network.operations for array in op.constants) <= 10 * len(whole)
    assert refused > len(whole)


def test_lists_longer_than_the_file_take_no_memory(root):
    content = bytearray(flatbuffer(root))
    count = content.index(b"kernel") - 4
    struct.pack_into("<I", content, count, 2**32 - 1)
    with pytest.raises(UserError, match=r"a: a list of 4294967295 numbers at byte \d+ is longer than the file"):
        tflite.parse(bytes(content), "a")


def test_a_list_of_one_table_over_and_over_is_refused(root):
    """A file of 1 MB could else describe far more objects than fit in memory."""
    content = flatbuffer(root | {1: [{}] * (limits.NETWORK_ITEMS + 1)})
    with pytest.raises(UserError, match=r"a: has a list of 5001 tables; a network for hands has a few hundred"):
        tflite.parse(content, "a")


def test_codes_of_the_schema():
    """TensorFlow Lite's schema.fbs: `TensorType` and `BuiltinOperation`."""
    kinds = {code: np.dtype(kind).name for code, kind in tflite.DTYPES.items()}
    assert kinds == {
        0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8",
    }  # fmt: skip
    codes = "ADD 0 AVERAGE_POOL_2D 1 CONCATENATION 2 CONV_2D 3 DEPTHWISE_CONV_2D 4 DEQUANTIZE 6 FULLY_CONNECTED 9 "
    codes += "LOGISTIC 14 MAX_POOL_2D 17 MUL 18 RELU 19 RELU6 21 RESHAPE 22 RESIZE_BILINEAR 23 PAD 34 MEAN 40 PRELU 54"
    words = codes.split()
    assert tflite.OPERATIONS == {int(code): name for name, code in zip(words[::2], words[1::2])}
