"""Small pickles that ask for much time: colliding keys, nested tuples, and calls that are repeated."""

import collections
import io
import pickle
import struct

import numpy as np
import pytest

from jaxhand.config import UserError, limits
from jaxhand.io import pickle_limits, pickles

COUNT = limits.PICKLE_KEYS + 1
# The hash of each is 0: of real + 1000003 * imag
COMPLEX = [
    b"cbuiltins\ncomplex\nG" + struct.pack(">d", -1000003.0 * i) + b"G" + struct.pack(">d", i) + b"\x86R"
    for i in range(1, COUNT + 1)
]
PAIRS = [b"J" + struct.pack("<i", i) + b"K\x01\x86" for i in range(COUNT)]
NESTED = b")" + b"q\x00h\x00\x86" * 40  # its hash needs 2^40 steps
MIXED = b"Nq\x000Nq\x000)" + b"".join(b"\x94h%c\x86" % i for i in range(1, 41))  # entries with and without an index
LONG = [b"L%dL\n" % (i * (2**61 - 1)) for i in range(9, COUNT + 9)]  # the hash of each is 0
KEYS = "more than 10000 keys that are tuples, frozensets or complex numbers"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\x80\x02}(" + b"".join(key + b"N" for key in COMPLEX) + b"u.", KEYS),
        (b"\x80\x02}" + b"".join(key + b"Ns" for key in COMPLEX) + b".", KEYS),
        (b"\x80\x02(" + b"".join(key + b"N" for key in PAIRS) + b"d.", KEYS),
        (b"\x80\x04\x8f(" + b"".join(PAIRS) + b"\x90.", KEYS),
        (b"\x80\x04(" + b"".join(PAIRS) + b"\x91.", KEYS),
        (b"\x80\x02cbuiltins\nset\n](" + b"".join(PAIRS) + b"e\x85R.", KEYS),
        (b"}(" + b"".join(key + b"N" for key in LONG) + b"u.", "more than 10000 integers of more than 64 bits"),
        (b"\x80\x02}" + NESTED + b"Ns.", KEYS),
        (b"\x80\x04}" + MIXED + b"Ns.", KEYS),
        (b"\x80\x02}" + b")" + b"2\x86" * 40 + b"Ns.", KEYS),
        (b"\x80\x02cbuiltins\nset\n]" + NESTED + b"a\x85R.", KEYS),
        (b"\x80\x02})" + b"\x85" * COUNT + b"Ns.", KEYS),  # its hash would overflow the stack of C
    ],
)
def test_keys_that_collide(content, message):
    with pytest.raises(UserError, match=message):
        pickles.load(content, "a.pkl")


@pytest.mark.parametrize("kind", [bytes, np.uint8, np.float64, object])
def test_every_reference_to_a_value_counts_as_a_copy(kind):
    """Of bytes, of arrays of numbers, and of what is in an array of objects."""
    size = 2**20
    values = {bytes: bytes(size), np.uint8: np.zeros(size, np.uint8), np.float64: np.zeros(size // 8)}
    many = lambda count: np.array([bytes(size)] * count, object) if kind is object else [values[kind]] * count  # noqa: E731
    most = limits.shared(0) // size
    pickle_limits.check_values(many(most), 0)
    with pytest.raises(pickle.UnpicklingError, match="expands to "):
        pickle_limits.check_values(many(most + 1), 0)


@pytest.mark.parametrize("before", [0, 10**6])
def test_the_bytes_before_a_pickle_do_not_raise_its_limits(before):
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x00"
    count = limits.shared(10**6 + 10**5) // 10**6 + 1
    calls = b"\x80\x03" + text + b"0c_codecs\nencode\nq\x010]" + b"h\x01h\x00\x85R0" * count + b"."
    copies = b"\x80\x03" + text + b"0](" + b"h\x00" * count + b"e."
    for content, message in ((calls, "calls functions too often on the same values"), (copies, "expands to")):
        stream = io.BytesIO(b"h" * before + content)
        stream.seek(before)
        with pytest.raises(UserError, match=message):
            pickles.read(pickles.Unpickler(stream), "a.pkl")


def test_calls_and_arrays_with_the_same_large_value():
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x00"
    calls = b"\x80\x03" + text + b"0c_codecs\nencode\nq\x010]" + b"h\x01h\x00\x85R0" * 10**4 + b"."
    with pytest.raises(UserError, match="calls functions too often on the same values"):
        pickles.load(calls, "a.pkl")
    array = pickle.dumps(np.zeros(10**6, np.uint8), 3)
    head, content, tail = array.partition(b"B" + struct.pack("<I", 10**6))
    assert content
    kept = content + bytes(10**6) + b"q\xf00"  # the bytes once, then an array of them 1000 times: 1 GB
    copies = b"\x80\x03" + kept + b"](" + (head[2:] + b"h\xf0" + tail[10**6 :].lstrip(b"q")[1:-1]) * 1000 + b"e."
    with pytest.raises(UserError, match="expands to 1,000 MB by references to the same values"):
        pickles.load(copies, "a.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_the_stack_is_that_of_the_pickle(protocol, monkeypatch):
    odd = {(1, 2): 0, "a": [(3, 4)], 1: {"b": (5,)}, "arrays": [np.arange(3.0), np.float32(1)], "c": 1j}
    odd |= {"sets": [{1, 2}, frozenset("ab")], "ordered": collections.OrderedDict({"x": (1,)})}
    content = pickle.dumps(odd, protocol)
    monkeypatch.setattr(limits, "PICKLE_KEYS", 1)
    pickle_limits._check_keys(content, 0)
    monkeypatch.setattr(limits, "PICKLE_KEYS", 0)
    with pytest.raises(pickle.UnpicklingError, match="more than 0 keys"):
        pickle_limits._check_keys(content, 0)
