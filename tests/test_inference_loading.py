"""Which predictor a run is loaded with."""

import inspect

import pytest

from jaxhand.config import UserError
from jaxhand.inference import loading


def test_the_kind_of_run_decides(monkeypatch, tmp_path):
    calls = []
    for name in ("MediapipePredictor", "Predictor"):
        monkeypatch.setattr(
            loading, name, lambda workdir, batch_size, name=name: calls.append((name, workdir, batch_size))
        )
    for networks in (True, False):
        monkeypatch.setattr(loading, "has_networks", lambda workdir, found=networks: found)
        loading.load(str(tmp_path), batch_size=4)
    assert calls == [("MediapipePredictor", tmp_path, 4), ("Predictor", tmp_path, 4)]
    assert inspect.signature(loading.load).parameters["batch_size"].default == 32


def test_a_run_is_given_by_its_folder():
    with pytest.raises(UserError, match="a run must be given by the path of its folder, such as .*, got 3"):
        loading.load(3)
