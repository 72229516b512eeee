"""The architecture: which module may import which, and rules for every file of the package."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxhand"
FILES = sorted(PACKAGE.rglob("*.py"))
LEVELS = {  # a room imports only from rooms of a lower level; every other module at the top is a command
    "exporting": 6,
    "inference": 5,
    "training": 4,
    "evaluation": 4,
    "interop": 4,
    "models": 3,
    "data": 3,
    "metrics": 2,
    "hand": 2,
    "io": 1,
    "config": 0,
    "": 7,  # jaxhand/__init__.py, whose functions import when they are called
    "convert": 8,  # `jaxhand convert data` still works: it is `jaxhand pack`
    "__main__": 8,  # `python -m jaxhand` is the command `jaxhand`
}
COMMAND = 7
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def forbidden(importer: str, imported: str) -> bool:
    """Whether module `importer` may not import module `imported`, both such as "jaxhand.metrics.pose"."""
    left, right = room(importer), room(imported)
    return left != right and LEVELS.get(right, COMMAND) >= LEVELS.get(left, COMMAND) and right != ""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module, package: str) -> set[str]:
    """All modules that a file imports anywhere in it; `package` is what its relative imports start from."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, [*package.split(".")[: len(package.split(".")) - node.level + 1], base]))
            names |= {f"{base}.{alias.name}" for alias in node.names} if base in ("jaxhand", "jaxhand.data") else {base}
    return names


def run_at_import(body: list[ast.stmt]):
    """The statements that an import executes: no function bodies, nothing under `if __name__ == "__main__"`."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from (ast.Expr(value) for value in statement.args.defaults + statement.args.kw_defaults if value)
        elif isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            yield from run_at_import(statement.orelse)
        elif isinstance(statement, (ast.ClassDef, ast.If, ast.For, ast.While, ast.With, ast.Try)):
            for field in ("body", "orelse", "finalbody"):
                yield from run_at_import(getattr(statement, field, []))
            for handler in getattr(statement, "handlers", []):
                yield from run_at_import(handler.body)
        else:
            yield statement


def side_effects(tree: ast.Module) -> list[str]:
    """What an import would change beyond the module itself, or compute on a device."""
    found = []
    for statement in run_at_import(tree.body):
        text = ast.unparse(statement)
        calls = [ast.unparse(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)]
        targets = [ast.unparse(target) for target in getattr(statement, "targets", [])]
        if (
            any(target.startswith(("os.environ", "jax.config")) for target in targets)
            or any(call.startswith(("jax.config.", "jax.random.", "jax.device", "jnp.")) for call in calls)
            or any(call.startswith(("os.environ.set", "os.environ.up", "os.putenv", "warnings.")) for call in calls)
        ):
            found.append(text)
    return found


@pytest.mark.parametrize(
    ("importer", "imported", "bad"),
    [
        ("jaxhand.train", "jaxhand.training.loop", False),
        ("jaxhand.training.loop", "jaxhand.metrics", False),
        ("jaxhand.data.crop", "jaxhand.data.record", False),
        ("jaxhand.data.crop", "jaxhand.hand.camera", False),
        ("jaxhand.hand.builtin.body", "jaxhand.config", False),
        ("jaxhand.hand.mano", "jaxhand.io.pickles", False),
        ("jaxhand.io.pickles", "jaxhand.config", False),
        ("jaxhand.training.checkpoint", "jaxhand.__version__", False),
        ("jaxhand.training.loop", "jaxhand.train", True),
        ("jaxhand.training.loop", "jaxhand.evaluation.evaluator", True),
        ("jaxhand.evaluation.report", "jaxhand.interop", True),
        ("jaxhand.models.voting_net", "jaxhand.data.record", True),
        ("jaxhand.metrics.pose", "jaxhand.hand.skeleton", True),
        ("jaxhand.config", "jaxhand.hand.skeleton", True),
        ("jaxhand.train", "jaxhand.evaluate", True),
        ("jaxhand", "jaxhand.inference.predictor", False),
        ("jaxhand", "jaxhand.predict", True),
    ],
)
def test_the_rule_of_the_house(importer, imported, bad):
    imported = imported.removesuffix(".__version__")
    assert forbidden(importer, imported) == bad


def test_imports_and_side_effects_are_seen():
    source = "from . import pose\nfrom ..hand import draw\nfrom jaxhand import config\ndef f(): import orbax.checkpoint"
    assert imports(ast.parse(source), "jaxhand.metrics") == {
        "jaxhand.metrics",
        "jaxhand.hand",
        "jaxhand.config",
        "orbax.checkpoint",
    }
    bad = ["os.environ['A'] = '1'", "jax.config.update('a', 1)", "try:\n    X = jnp.eye(3)\nexcept OSError: pass"]
    bad += ["def f(x=jnp.zeros(3)): pass", "class A:\n    x = jnp.ones(2)", "os.environ.setdefault('A', '1')"]
    assert all(side_effects(ast.parse(source)) for source in bad)
    good = "X = np.eye(3)\nf = jax.jit(g)\n@partial(jax.jit, static_argnames='a')\ndef h(): os.environ['A'] = '1'\n"
    assert not side_effects(ast.parse(good + "if __name__ == '__main__':\n    jax.config.update('a', 1)\n"))


@each_file
def test_rooms_import_only_rightwards(path):
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    ours = {target for target in imports(ast.parse(path.read_text()), package) if target.split(".")[0] == "jaxhand"}
    assert [target for target in sorted(ours) if forbidden(name, target)] == []


DATA = PACKAGE / "data"
DATA_ROOMS = {  # subpackage of data/ → what it may import from data/, in addition to itself
    "images": set(),
    "datasets": {"images", "record", "crop_rules", "checks", "label_checks"},
    "synthetic": {"images", "record", "crop_rules", "checks"},
}


def data_box(module: str) -> str:
    """The box of "jaxhand.data.…": a room, or a file at the top of data/; "" is data/__init__.py."""
    name = (module.split(".") + [""])[2]
    return name if (DATA / name).is_dir() or (DATA / f"{name}.py").is_file() else ""


def data_imports(tree: ast.Module, module: str) -> set[str]:
    """The boxes of data/ that a module imports, without its own."""
    package = module if module == "jaxhand.data" else module.rpartition(".")[0]
    ours = {name for name in imports(tree, package) if f"{name}.".startswith("jaxhand.data.")}
    return {data_box(name) for name in ours} - {data_box(module)}


@pytest.mark.parametrize(
    ("source", "boxes"),
    [
        ("from jaxhand.data.datasets.base import ImageDataset", {"datasets"}),
        ("from jaxhand.data import datasets, mix, load", {"datasets", "mix", ""}),
        ("from jaxhand import data, config", {""}),
        ("def f(): import jaxhand.data.inspect", {"inspect"}),
        ("from . import depth\nfrom ..record import Record", {"record"}),
        ("from jaxhand.data.images.header import image_size\nfrom jaxhand.database import x", set()),
    ],
)
def test_imports_inside_data_are_seen(source, boxes):
    assert data_imports(ast.parse(source), "jaxhand.data.images.encoded") == boxes


@pytest.mark.parametrize("room_name", DATA_ROOMS)
def test_the_rooms_of_data_import_only_what_lies_below_them(room_name):
    paths = sorted((DATA / room_name).rglob("*.py"))
    found = {path.name: data_imports(ast.parse(path.read_text()), module_name(path)) for path in paths}
    assert paths and {name: boxes for name, boxes in found.items() if boxes - DATA_ROOMS[room_name]} == {}


def test_the_boxes_of_data_have_no_circle():
    """Rooms and top files of data/ can be put in an order in which each imports only earlier ones."""
    graph = {}
    for path in DATA.rglob("*.py"):
        module = module_name(path)
        graph.setdefault(data_box(module), set()).update(data_imports(ast.parse(path.read_text()), module))
    assert graph[""] >= {"datasets", "synthetic", "mix"} and graph["pack"] >= {"", "datasets"}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("images") < order.index("record") < order.index("datasets") < order.index("")


@each_file
def test_only_checkpoint_imports_orbax(path):
    names = imports(ast.parse(path.read_text()), module_name(path))
    knows = any(name.split(".")[0] == "orbax" for name in names)
    assert not knows or path.relative_to(PACKAGE) == Path("training/checkpoint.py")


@each_file
def test_import_has_no_side_effects(path):
    assert side_effects(ast.parse(path.read_text())) == []


def test_importing_jaxhand_imports_nothing_else():
    """Nothing but what annotations need: `import jaxhand` and `jaxhand --help` are quick."""
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    names = imports(ast.Module([s for s in body if isinstance(s, (ast.Import, ast.ImportFrom))], []), "jaxhand")
    assert names <= {"__future__", "typing"}


@each_file
def test_public_functions_have_docstrings(path):
    tree = ast.parse(path.read_text())
    bare = ["the module"] if tree.body and not ast.get_docstring(tree) else []
    public = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
    for function in (node for owner in public for node in owner.body if isinstance(node, ast.FunctionDef)):
        if function.name[0] != "_" and not ast.get_docstring(function):
            bare.append(function.name)
    assert bare == []


@each_file
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 400
