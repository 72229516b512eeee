"""README, CONTRIBUTING and docs/: the commands in them parse, links lead somewhere, code blocks fit the page."""

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from jaxhand import cli
from jaxhand import config as configs
from tests.support.pages import PAGES, ROOT, blocks, commands

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def commands_of_config(path: Path) -> list[str]:
    """The command lines in the first comment of a config."""
    comment = re.match(r"(#.*\n)+", path.read_text())[0]
    return re.findall(r"python -m jaxhand\.[^\n;(]*", comment)


class Parsed(Exception):
    """A command line was parsed; the command itself is not run."""


@pytest.fixture
def parse(monkeypatch):
    """Parse a command line with the parser of the command that it names."""
    for name in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, name)

        def parse_only(self, *arguments, original=original, **options):
            raise Parsed(original(self, *arguments, **options))

        monkeypatch.setattr(argparse.ArgumentParser, name, parse_only)

    def parse(line: str) -> argparse.Namespace | None:
        _, *words = shlex.split(line.removeprefix("python -m "), comments=True)
        if line.startswith("python -m jaxhand."):
            module = line.split()[2]
            main = importlib.import_module(f"{module}.__main__" if module.endswith("synthetic") else module).main
        elif words[0].startswith("-"):
            assert words[0] in ("--help", "--version")
            return None
        else:
            module = cli.COMMANDS[words.pop(0)][0]
            if not words:  # a command that a sentence mentions
                return None
            main = importlib.import_module(module).main
        monkeypatch.setattr(sys, "argv", ["jaxhand", *words])
        if "--help" in words:
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 0
            return None
        with pytest.raises(Parsed) as parsed:
            main()
        return parsed.value.args[0]

    return parse


def check(parse, line: str) -> None:
    """Parse a command line; of `train` and `summary` also read the config with its overrides."""
    found = parse(line)
    if found is not None and "overrides" in found:
        path = found.config
        exists = configs.experiments.find(path).is_file()
        if not exists:  # a run folder of the text, whose config has all keys
            assert str(path).startswith("runs/")
        configs.load(path if exists else None, [each for each in found.overrides if "=" in each])


@each_page
def test_commands_of_pages_parse(page, parse):
    found = commands(page)
    assert page.name not in ("README.md", "index.md", "train.md", "datasets.md") or len(found) > 2
    for line in found:
        check(parse, line)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_commands_of_configs_parse(path, parse, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line in commands_of_config(path):
        check(parse, line)


def test_a_wrong_command_is_noticed(parse, capsys):
    for line in (
        "jaxhand train --confg quickstart",
        "jaxhand evaluate RUN --protokol freihand",
        "jaxhand pack freihand",
    ):
        with pytest.raises(SystemExit):
            parse(line)
    with pytest.raises(KeyError):
        parse("jaxhand trian")
    with pytest.raises(configs.ConfigError):
        check(parse, "jaxhand train --config quickstart training.num_epoch=3")


@each_page
def test_code_blocks_fit_the_page(page):
    assert [line for block in blocks(page) for line in block.splitlines() if len(line) > 110] == []


@each_page
def test_links_lead_somewhere(page):
    def anchors(path: Path) -> set[str]:
        titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert page.parent == ROOT or target.resolve().is_relative_to(ROOT / "docs"), f"not in the site: {link}"
            assert not anchor or anchor in anchors(target), link


def test_the_site_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r": (\S+\.md)$", text, re.M)) == pages


def test_the_reference_names_what_there_is():
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M):
            assert name == "jaxhand.load" or importlib.util.find_spec(name), name


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip("IPython", reason="the notebook needs IPython")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "first_steps.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["found"]["keypoints_3d"].shape == (1, 21, 3)
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
