"""Photographs in HEIC: named with what to do, and read where pillow-heif is installed."""

import sys
import types

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.images.heic import is_heic

HEIC = bytes.fromhex("0000001c 66747970 68656963 00000000 6d696631 68656963 6d696166 00000156")
AVIF = bytes.fromhex("00000020 66747970 61766966 00000000 61766966 6d696631 6d696166 4d413142")


def test_heic_is_recognised_by_its_brands():
    assert is_heic(HEIC) and not is_heic(AVIF)
    assert is_heic(HEIC.replace(b"ftypheic", b"ftypmif1"))  # the major brand may be general
    assert not any(map(is_heic, (b"", HEIC[:8], b"\xff\xd8\xff\xe0heic", b"\0" * 40)))


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # cannot be imported
    line = "^image IMG_1.HEIC is in HEIC: pip install pillow-heif, or convert it to JPEG"
    with pytest.raises(UserError, match=line):
        _ = EncodedImage(HEIC, "image IMG_1.HEIC").pixels


def test_with_the_package_it_is_read(monkeypatch):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)

    def open_heif(content, convert_hdr_to_8bit):
        assert convert_hdr_to_8bit and content.startswith(HEIC)
        if content.endswith(b"cut"):
            raise ValueError("no 'meta'\n box")
        return types.SimpleNamespace(to_pillow=lambda: types.SimpleNamespace(convert=lambda mode: pixels))

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(open_heif=open_heif))
    image = EncodedImage(HEIC, "image a")
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.size == (4, 2)
    with pytest.raises(UserError, match=r"^image a is in HEIC and cannot be read \(no 'meta' box\)$"):
        _ = EncodedImage(HEIC + b"cut", "image a").pixels
