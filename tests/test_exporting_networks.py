"""Networks of runs as files: every model in both formats, loaded without jaxhand, and the errors of a user."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.exporting import checking, formats, network, onnx_graph, onnx_ops, web_page, writing
from jaxhand.inference.predictor import Predictor
from jaxhand.training.checkpoint import restore_best
from tests.support import mediapipe_files
from tests.support.exported_runs import MODELS, drawn_run

pytest.importorskip("onnx", reason="needs requirements-export.txt")
pytest.importorskip("onnxruntime", reason="needs requirements-export.txt")
pytest.importorskip("flatbuffers", reason="needs requirements-export.txt")
PAGE = Path(__file__).parents[1] / "docs" / "export.md"
MESHES = ("fast_mesh", "rgbd_fusion", "hamer", "wilor")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run of the default model."""
    return drawn_run(tmp_path_factory.mktemp("drawn") / "run", "dense")


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The folder with the files of `run` in both formats, and what was printed."""
    folder, lines = tmp_path_factory.mktemp("exported"), []
    for kind in formats.FORMATS:
        writing.export(run, folder, kind, say=lines.append)
    return folder, lines


SLOW = [name for name in MODELS if name not in ("dense", "mediapipe")]


@pytest.mark.parametrize("name", ["mediapipe", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_model_becomes_onnx(name, tmp_path):
    """`export` itself compares it with the run."""
    lines = []
    [file] = writing.export(drawn_run(tmp_path / "run", name), tmp_path / "out", "onnx", say=lines.append)
    about = json.loads((tmp_path / "out/metadata.json").read_text())["hand"]
    outputs = {"keypoints_3d", "keypoints_2d"} | ({"vertices"} if name in MESHES else set())
    assert outputs <= set(about["outputs"]) and about["model"] == name
    assert re.search(r"hand.onnx: \d+\.\d MB, .* at most [\d.e-]+ mm, [\d.e-]+ px from the run", lines[0])
    depth = {"depth", "has_depth", "depth_center"} if name in ("fast_mesh", "rgbd_fusion") else set()
    assert set(about["inputs"]) == {"image", "K"} | depth
    if name in MESHES:
        assert np.max(about["faces"]) == about["outputs"]["vertices"]["shape"][1] - 1
    assert file.name == about["file"] == "hand.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "dense"])
def test_every_model_becomes_stablehlo(name, tmp_path):
    writing.export(drawn_run(tmp_path / "run", name), tmp_path / "out", "stablehlo")


def test_the_palm_detector_is_exported_with_its_run(tmp_path):
    run, lines = mediapipe_files.convert_run(tmp_path / "run"), []
    files = writing.export(run, tmp_path / "out", "onnx", say=lines.append)
    assert [file.name for file in files] == ["hand.onnx", "palm_detector.onnx"] and len(lines) == 2
    about = json.loads((tmp_path / "out/metadata.json").read_text())
    assert about["hand"]["crop"]["along_hand"] and about["hand"]["licence"].startswith("Apache-2.0")
    assert about["palm_detector"]["outputs"]["points"]["shape"] == ["B", 2016, 9, 2]


def test_files_hold_their_metadata(run, exported):
    folder, _ = exported
    about = json.loads((folder / "metadata.json").read_text())["hand"]
    best = restore_best(run)
    assert about["run"]["step"] == best.step and len(about["run"]["sha256"]) == 64
    assert about["crop"]["image_size"] == 64 and about["joints"][0] == "wrist" and "synthetic" in about["licence"]
    del about["file"]
    with zipfile.ZipFile(folder / "hand.jaxexport") as archive:
        inside = json.loads(archive.read("metadata.json"))
    assert inside == about
    import onnx

    properties = {prop.key: prop.value for prop in onnx.load(folder / "hand.onnx").metadata_props}
    assert json.loads(properties["jaxhand"]) == about


def loaders() -> list[str]:
    """The Python blocks of docs/export.md."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


@pytest.mark.parametrize(("number", "format"), enumerate(formats.FORMATS), ids=list(formats.FORMATS))
def test_the_loaders_of_the_page_need_no_jaxhand(number, format, run, exported):
    """A process in which jaxhand and Flax cannot be imported loads the files, and predicts what the run predicts."""
    folder, _ = exported
    inputs = checking.batches(network.hand(run))[1]
    np.savez(folder / "inputs.npz", **inputs)
    blocked = "import sys; sys.modules |= {'jaxhand': None, 'flax': None}; import numpy as np\n"
    inputs_line = "inputs = dict(np.load('inputs.npz'))\n"
    save = "np.savez('outputs.npz', **hands)"
    code = f"{blocked}{inputs_line}{loaders()[number].replace('exported/', '')}{save}"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predictor = Predictor(run)
    wanted = predictor._apply_model(*predictor._parameters, inputs)
    with np.load(folder / "outputs.npz") as hands:
        assert set(hands) == set(wanted)
        for name in hands:
            np.testing.assert_allclose(hands[name], wanted[name], atol=1e-3, rtol=1e-5, err_msg=name)


def test_half_precision_halves_the_file_and_prints_its_cost(run, exported, tmp_path):
    folder, lines = exported[0], []
    (tmp_path / "hand.onnx.data").touch()  # of an earlier export that was above 2 GB
    [file] = writing.export(run, tmp_path, "onnx", half=True, say=lines.append)
    assert {path.name for path in tmp_path.iterdir()} == {"hand.onnx", "metadata.json"}
    assert file.stat().st_size < 0.7 * (folder / file.name).stat().st_size
    cost = re.fullmatch(
        r"  half precision changes the predictions by ([\d.e-]+) mm, ([\d.e-]+) px on average", lines[1]
    )
    assert 0 < float(cost[1]) < 5
    assert json.loads((tmp_path / "metadata.json").read_text())["hand"]["weights"] == "float16"


def test_a_model_above_the_limit_has_a_second_file(run, exported, tmp_path, monkeypatch):
    """The limit is 2 GB, here 100 kB."""
    import onnx

    monkeypatch.setattr(onnx_graph, "LARGEST", 100_000)
    monkeypatch.setattr(formats, "LARGEST", 100_000)
    [file] = writing.export(run, tmp_path, "onnx")
    data = tmp_path / "hand.onnx.data"
    whole = (exported[0] / "hand.onnx").stat().st_size
    assert file.stat().st_size < 0.5 * whole and file.stat().st_size + data.stat().st_size > whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hand.onnx", "hand.onnx.data", "metadata.json"]
    assert json.loads((tmp_path / "metadata.json").read_text())["hand"]["data"] == data.name
    onnx.checker.check_model(str(file))
    inputs = checking.batches(network.hand(run))[1]
    wanted = formats.run_onnx(exported[0] / "hand.onnx")(inputs)
    moved = Path(shutil.copytree(tmp_path, tmp_path / "moved")) / "hand.onnx"
    for name, array in formats.run_onnx(moved)(inputs).items():
        np.testing.assert_array_equal(array, wanted[name])
    with pytest.raises(UserError, match="at most 2 GB: use --half or --format onnx"):
        writing.export(run, tmp_path, "stablehlo")
    made = lambda run, folder, kind, say: shutil.copytree(tmp_path / "moved", folder, dirs_exist_ok=True)
    monkeypatch.setattr(writing, "export", made)
    with pytest.raises(UserError, match="too large for a page"):
        web_page._networks(run, print)


@pytest.mark.parametrize("kind", formats.FORMATS)
def test_a_file_that_computes_something_else_is_removed(kind, run, tmp_path, monkeypatch):
    form = formats.FORMATS[kind]
    wrong = form._replace(run=lambda path: lambda inputs: {k: v + 0.05 for k, v in form.run(path)(inputs).items()})
    monkeypatch.setitem(formats.FORMATS, kind, wrong)
    with pytest.raises(UserError, match=r"hand.* is wrong: keypoints_\dd differs from the run by 0.05.*at most 0.01"):
        writing.export(run, tmp_path / "out", kind)
    assert list((tmp_path / "out").iterdir()) == []


def test_errors_of_a_user(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nowhere"):
        writing.export(tmp_path / "nowhere", tmp_path / "out", "onnx")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        writing.export(run, tmp_path / "file", "onnx")
    for content in ('{"name": "mine"}', '{"name": {"a": 1}}', "[]", "{", "7"):
        (tmp_path / "metadata.json").write_text(content)
        with pytest.raises(UserError, match="metadata.json: is not of `jaxhand export`, and would be replaced"):
            writing.export(run, tmp_path, "onnx")
        assert (tmp_path / "metadata.json").read_text() == content and not (tmp_path / "hand.onnx").exists()
    (tmp_path / "metadata.json").unlink()
    for kind, name in (("onnx", "hand.onnx"), ("onnx", "hand.onnx.data"), ("stablehlo", "hand.jaxexport")):
        (tmp_path / name).write_text("of the user")
        with pytest.raises(UserError, match=f"{name}: exists, was not written by this command"):
            writing.export(run, tmp_path, kind)
        assert (tmp_path / name).read_text() == "of the user"
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="no palm detector"):
        network.palm_detector(run)
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--format onnx needs onnx and onnxruntime: pip install onnx onnxruntime"):
        writing.export(run, tmp_path / "out", "onnx")


def test_a_model_with_other_operations_is_named(run, monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_ops, "CONVERTERS", {})
    with pytest.raises(UserError, match="dense cannot be written as ONNX: it contains the primitive"):
        writing.export(run, tmp_path / "out", "onnx")
