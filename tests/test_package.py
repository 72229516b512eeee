"""The package: its declared requirements, its start, and that a wheel runs in an empty folder."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import jaxhand
from jaxhand import cli
from jaxhand.exporting import page_files
from tests.conftest import QUICK

ROOT = Path(__file__).parents[1]
OPTIONAL = {"ai_edge_litert"}  # optional: a user installs it for that part, whose error message names it
TINY = [
    *("data.image_size=64", "data.train_samples=96", "data.test_samples=22", "data.threads=1", "model.width=32"),
    *(
        "model.fine_blocks=0",
        "model.blocks=0",
        "model.joint_blocks=0",
        "training.num_epochs=1",
        "training.batch_size=8",
    ),
]


def requirements(*files: str) -> set[str]:
    """The names of the distributions in files of requirements, in lower case with hyphens."""
    lines = [line for name in files for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"]
    return {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in lines}


def imported(folder: str) -> dict[str, str]:
    """Modules from outside that the files of a folder import anywhere: name at the top → one file that does so."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    ours = {"jaxhand", "tests", "benchmarks"}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | OPTIONAL | ours}


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        (
            "jaxhand",
            ["requirements.txt", "requirements-export.txt", "requirements-rerun.txt", "requirements-video.txt"],
        ),
        ("tests", ["requirements.txt", "requirements-export.txt", "tests/requirements.txt"]),
        ("benchmarks", ["requirements.txt", "benchmarks/requirements.txt"]),
    ],
)
def test_every_import_is_declared(folder, files):
    """Not only installed because another package needs it."""
    distributions = importlib.metadata.packages_distributions()
    others = {name: [name] for name in ("torch", "smplx", "scipy", "av")} | {
        "google": ["protobuf"],
        "rerun": ["rerun-sdk"],
    }
    undeclared = [
        f"{name} ({path})"
        for name, path in imported(folder).items()
        if not {each.lower().replace("_", "-") for each in others.get(name) or distributions.get(name, [])}
        & requirements(*files)
    ]
    assert undeclared == []


def python(*arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    """Run this Python with the clone on its path, or with PYTHONPATH as given."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    "statement",
    [
        "import jaxhand",
        "from jaxhand.cli import main; sys.argv[1:] = ['--help']; main()",
        "from jaxhand.cli import main; sys.argv[1:] = ['--version']; main()",
        "from jaxhand.cli import main; sys.argv[1:] = ['train', '--help']; main()",
        "from jaxhand.cli import main; sys.argv[1:] = ['train', 'modle.width=8']; main()",
        "from jaxhand.cli import main; sys.argv[1:] = ['convert', 'hamer', '--help']; main()",
        "from jaxhand.cli import main; sys.argv[1:] = ['evaluate', '--help']; main()",
        "from jaxhand.cli import main; sys.argv[1:] = ['predict', '--help']; main()",
        "from jaxhand.cli import main; sys.argv[1:] = ['predict', 'run', 'a.jpg', '--focal', '0']; main()",
        "from jaxhand.cli import main; sys.argv[1:] = ['inspect', '--help']; main()",
        "from jaxhand.cli import main; sys.argv[1:] = ['pack', '--help']; main()",
    ],
)
def test_help_starts_without_jax(statement):
    heavy = "[name for name in ('jax', 'numpy', 'flax', 'cv2') if name in sys.modules]"
    code = f"import atexit, sys\natexit.register(lambda: print({heavy}))\n{statement}"
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


def test_what_help_shows_without_an_import_is_right():
    from jaxhand import inspect, pack
    from jaxhand.data import inspect as data_inspect
    from jaxhand.data import pack as data_pack

    assert inspect.SPLITS == data_inspect.SPLITS and pack.SPLITS == data_pack.SPLITS


def test_rooms_are_there_after_import_jaxhand():
    assert python("-c", "import jaxhand; print(jaxhand.metrics.pa_mpjpe.__name__)").stdout == "pa_mpjpe\n"
    assert "metrics" in dir(jaxhand)
    with pytest.raises(AttributeError, match="no attribute 'metrix'"):
        _ = jaxhand.metrix


def test_the_command(monkeypatch, capsys):
    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jaxhand", *arguments])
        try:
            code = cli.main() or 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    assert run("--version") == (0, f"jaxhand {jaxhand.__version__}\n", "")
    code, output, _ = run()
    assert code == 0 and all(f"\n  {name} " in output for name in cli.COMMANDS)
    assert run("trian") == (2, "", "error: unknown command 'trian'; did you mean 'train'?\n")
    assert run("train", "--config", "quikstart") == (
        2,
        "",
        "error: no config 'quikstart': it is neither a file nor an experiment; did you mean 'quickstart'?\n",
    )
    for name in cli.COMMANDS:
        code, output, _ = run(name, "--help")
        assert code == 0 and output.startswith(f"usage: jaxhand {name} ")


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "jaxhand.__version__"}
    assert f"\n## {jaxhand.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^version: {re.escape(jaxhand.__version__)}$", (ROOT / "CITATION.cff").read_text(), re.M)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_each_python_has_an_environment_of_its_own():
    def environment(*arguments) -> str:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHON"}
        command = ["make", "--dry-run", "--always-make", "-C", ROOT, "test", *arguments]
        text = subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout
        return re.search(r"^(\S+)/bin/python -m pytest", text, re.M)[1]

    assert environment() == ".venv"
    assert environment(f"PYTHON={sys.executable}") == f".venv-{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel, built from the source distribution, and the source distribution."""
    pytest.importorskip("build")
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer")
    out = tmp_path_factory.mktemp("dist")
    built = python("-m", "build", "--no-isolation", "--outdir", out, ROOT)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_what_is_in_the_wheel(distributions):
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = set(wheel.namelist())
        for path in (ROOT / "configs").glob("*.yaml"):
            assert wheel.read(f"jaxhand/configs/{path.name}") == path.read_bytes()
    assert {"jaxhand/py.typed", "jaxhand/hand/builtin/surface.npz", "jaxhand/cli.py"} <= names
    page = {
        f"jaxhand/exporting/web/dist/{path.name}" for path in page_files.BUILD.glob("*")
    }  # none, if it is not built
    assert page == {name for name in names if name.startswith("jaxhand/exporting/web/")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "jaxhand").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}


def test_the_source_distribution_can_be_tested(distributions):
    with tarfile.open(distributions[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for pattern in ("tests/**/*.py", "tests/*.txt", "configs/*.yaml", "benchmarks/*.py", "Makefile", "docs/*.md"):
        assert {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)} <= names


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory) -> Path:
    """The wheel installed into a folder; its requirements come from this environment."""
    target = tmp_path_factory.mktemp("site-packages")
    pip = python("-m", "pip", "install", "--quiet", "--no-deps", "--target", target, distributions[0])
    assert pip.returncode == 0, pip.stderr
    return target


def test_a_wheel_trains_in_an_empty_folder(installed, tmp_path):
    def run(*arguments) -> str:
        found = python(*arguments, cwd=tmp_path, PYTHONPATH=str(installed), XLA_FLAGS=QUICK)
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    command = installed / "bin" / "jaxhand"
    assert run("-c", "import jaxhand; print(jaxhand.__file__)").strip() == str(installed / "jaxhand" / "__init__.py")
    assert run(command, "--help") == run("-m", "jaxhand", "--help")
    assert run(command, "predict", "--help").startswith("usage: jaxhand predict ")
    assert "Best model: Epoch 0" in run(command, "train", *TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    settings = (tmp_path / "runs" / "quickstart" / "config.yaml").read_text()
    assert "name: muon" in settings and "depth_dropout: 0.2" in settings  # sizes of the quickstart


def test_an_editable_install_wins_over_the_folder_of_the_clone(tmp_path):
    """A script in the folder above a clone: the clone's folder, called jaxhand too, is no package."""
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer")
    code = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    built = python("-c", code, tmp_path, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        paths = [name for name in wheel.namelist() if name.endswith(".pth")]
        assert [wheel.read(name).decode().strip() for name in paths] == [str(ROOT)]
        wheel.extractall(tmp_path / "site-packages")
    (tmp_path / "jaxhand").mkdir()
    script = tmp_path / "script.py"
    script.write_text(f"import site\nsite.addsitedir({str(tmp_path / 'site-packages')!r})\nimport jaxhand\n")
    script.write_text(script.read_text() + "print(jaxhand.__version__)\n")
    command = [sys.executable, "-S", "-E", script]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{jaxhand.__version__}\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pip_installs_all_that_a_wheel_needs(distributions, tmp_path):
    """Into a fresh environment, with the downloads that this takes; then a training in an empty folder."""
    environment, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()

    def run(*command) -> str:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        found = subprocess.run(list(map(str, command)), cwd=empty, env=clean, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin" / "pip", "install", "--quiet", f"{distributions[0]}[export]")
    jaxhand_command = environment / "bin" / "jaxhand"
    assert "Best model: Epoch 0" in run(jaxhand_command, "train", *TINY)
    assert "Written to" in run(jaxhand_command, "evaluate", "runs/quickstart")
    assert "Written to" in run(jaxhand_command, "report", "runs/quickstart")
    for kind in ("stablehlo", "onnx"):
        assert "mm, " in run(jaxhand_command, "export", "runs/quickstart", "exported", "--format", kind)
    sample = empty / "runs" / "quickstart" / "samples" / "epoch_000.png"
    assert "1 hands of 1 images" in run(jaxhand_command, "predict", "runs/quickstart", sample)
