"""Files of torch.save before PyTorch 1.6: tensors are read, nothing is run, damage is named."""

import collections

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.interop import torch_legacy
from tests.support.torch_files import Saved, named, save, save_legacy

RNG = np.random.default_rng(0)
STORAGE = RNG.normal(size=24).astype(np.float32)
TREE = {
    "conv.weight": RNG.normal(size=(4, 3, 2, 2)).astype(np.float32),
    "half": RNG.normal(size=5).astype(np.float16),
    "count": np.array(7, np.int64),
    "turned": Saved(STORAGE, (3, 4), (1, 6), 2),
    "shared": Saved(STORAGE, (24,)),
}


@pytest.fixture
def path(tmp_path):
    save_legacy(tmp_path / "a.pth", collections.OrderedDict(TREE))
    return tmp_path / "a.pth"


def test_tensors_are_read(path):
    found = {name: tensor.read() for name, tensor in torch_legacy.read(path).items()}
    for name in ("conv.weight", "half", "count"):
        np.testing.assert_array_equal(found[name], np.float32(TREE[name]) if name == "half" else TREE[name])
    turned = np.lib.stride_tricks.as_strided(STORAGE[2:], (3, 4), (4, 24))
    np.testing.assert_array_equal(found["turned"], turned)
    np.testing.assert_array_equal(found["shared"], STORAGE)


def test_todays_format_is_read_too(tmp_path):
    save(tmp_path / "a.pth", {"x": STORAGE})
    np.testing.assert_array_equal(torch_legacy.read(tmp_path / "a.pth")["x"].read(), STORAGE)


def test_nothing_is_run(tmp_path):
    class Run:
        def __reduce__(self):
            return named("os", "system"), ("echo run",)

    save_legacy(tmp_path / "a.pth", {"x": Run()})
    with pytest.raises(UserError, match="a.pth: a pickle: refers to os.system: refused"):
        torch_legacy.read(tmp_path / "a.pth")


def test_a_view_beyond_its_storage_is_damage(tmp_path):
    for view in (Saved(STORAGE, (25,)), Saved(STORAGE, (3,), (12,)), Saved(STORAGE, (10**9,), (0,))):
        save_legacy(tmp_path / "a.pth", {"x": view})
        with pytest.raises(
            UserError,
            match=r"a.pth: a pickle: damaged .*\(a tensor .* in a (storage of 24 elements|file of \d+ bytes)\)",
        ):
            torch_legacy.read(tmp_path / "a.pth")


def test_a_shortened_file_is_named(path, tmp_path):
    content = path.read_bytes()
    with pytest.raises(UserError, match=r"nowhere: cannot be read \(No such file"):
        torch_legacy.read(tmp_path / "nowhere")
    for length in (20, 200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="a.pth: .*download it again"):
            torch_legacy.read(path)
