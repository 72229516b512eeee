"""Files of the rendered sets: what is read from the cache, and what a command must not overwrite."""

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.synthetic import clip, dataset
from jaxhand.io import array_file
from tests.support import fuzz_packs


@pytest.mark.parametrize(
    "change", [{"image": None}, {"depth": np.zeros((2, 8, 8), np.float32)}, {"K": np.zeros((1, 3, 3), np.float32)}]
)
def test_a_cache_of_other_hands_is_not_used(tmp_path, change):
    arrays = fuzz_packs.rendered()
    array_file.write(tmp_path / "a.hands", arrays)
    assert dataset.read_cache(tmp_path / "a.hands", 2, 8)["K"].shape == (2, 3, 3)
    for count, size in ((3, 8), (2, 16)):
        with pytest.raises(array_file.DamagedError, match="is not that of"):
            dataset.read_cache(tmp_path / "a.hands", count, size)
    array_file.write(
        tmp_path / "a.hands", {key: value for key, value in (arrays | change).items() if value is not None}
    )
    with pytest.raises(array_file.DamagedError, match=f"the array {next(iter(change))} is not that of 2 hands of 8 px"):
        dataset.read_cache(tmp_path / "a.hands", 2, 8)


def test_more_hands_than_fit_into_memory(monkeypatch):
    def render(*_):
        raise MemoryError("Unable to allocate 4 TiB")

    monkeypatch.setattr(dataset, "_render_chunk", render)
    with pytest.raises(UserError, match=r"^1,000,000,000 hands of 64 px do not fit into memory \(Unable to allocate"):
        dataset.render_range(0, 0, 10**9, size=64, view="front")


def test_labels_are_not_overwritten_by_a_clip(tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text("labels")
    assert clip.main(["--clip", str(tmp_path / "train.mp4")]) == 2
    assert (tmp_path / "train.jsonl").read_text() == "labels" and "train.jsonl: exists" in capsys.readouterr().err
    assert clip.main(["--clip", str(tmp_path / "a.mp4"), "--count", str(10**9)]) == 2
    assert "--count must be 1 to 100,000" in capsys.readouterr().err
    for options in (["--count", "1000000000"], ["--columns", "0"]):
        assert dataset.main(["--preview", str(tmp_path / "a.png"), *options]) == 2
        assert "a sheet has 1 to 1000 hands and columns" in capsys.readouterr().err
