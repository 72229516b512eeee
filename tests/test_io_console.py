"""The console: output in every encoding, `~` in paths, and commands whose stdout is closed or full."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxhand.io import console


def run(code: str, *, stdout=subprocess.PIPE, **environment) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, timeout=60)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_mark_that_the_encoding_lacks_is_left_out(encoding):
    code = "from jaxhand.io import console; console.prepare(); print('  ✓ Saved … → ☃')"
    assert run(code, PYTHONIOENCODING=encoding).stdout == b"  Saved ... -> ?\n"
    assert run(code, PYTHONIOENCODING="utf-8").stdout.decode() == "  ✓ Saved … → ☃\n"


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert [str(console.path(text)) for text in ("~/run", "~", "a/~/b", "~no-such-user/x", "/x")] == [
        *("/home/me/run", "/home/me", "a/~/b", "~no-such-user/x", "/x")
    ]


def test_paths_that_are_empty_and_files_of_another_kind():
    for read, text, line in (
        (console.path, "", "the path is empty, as from a variable that is not set"),
        (console.path, "a/" + "x" * 300, "the path a/x*… is too long"),
        (console.path, "a/" * 3000, "the path a/a/.* is too long"),
        (console.output_file(".html", ".htm"), "", "the path is empty"),
        (console.output_file(".html", ".htm"), "run/config.yaml", "this file must end in .html or .htm"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=line):
            read(text)
    assert console.output_file(".html", ".htm")("a/b.HTML") == Path("a/b.HTML")


def test_a_line_only_where_it_takes_long(capsys, monkeypatch):
    with console.patience("quick"):
        pass
    monkeypatch.setattr(console, "PATIENCE", 0.01)
    with console.patience("compiling"):
        time.sleep(0.3)
    assert capsys.readouterr() == ("", "compiling\n")


COMMAND = """
import sys
from jaxhand.training import runtime
def main():
    for line in range({lines}): print("0123456789" * 100)
    print("still running", file=sys.stderr)
runtime.run(main)
"""


@pytest.mark.parametrize("lines", [1, 1000])  # more than a buffer of stdout
def test_a_full_stdout_is_one_line(lines):
    with open("/dev/full", "wb") as full:
        done = run(COMMAND.format(lines=lines), stdout=full)
    last = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 1 and b"Traceback" not in done.stderr and "not complete" in last


def test_a_closed_stdout_is_one_line():
    read, write = os.pipe()
    os.close(read)
    done = run(COMMAND.format(lines=1000), stdout=write)
    os.close(write)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"not complete" in done.stderr


def test_no_stdout_at_all():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = ["sh", "-c", f'"{sys.executable}" -c "$1" >&-', "sh", COMMAND.format(lines=2)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"still running\n")


def test_a_training_goes_on_without_stdout(tmp_path):
    code = f"""
from jaxhand.training.logger import Logger
logger = Logger({str(tmp_path)!r}, is_main=True)
for number in range(3):
    logger.print("a line")
    logger.epoch({{"step": number}})
"""
    with open("/dev/full", "wb") as full:
        done = run(code, stdout=full)
    assert done.returncode == 0 and done.stderr.count(b"\n") == 1 and b"the run goes on" in done.stderr
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


def test_a_platform_that_is_not_there():
    code = "import jax; from jaxhand.training import runtime; runtime.run(lambda: jax.numpy.ones(3).tolist())"
    done = run(code, JAX_PLATFORMS="rocm,nonsense")
    assert (
        done.returncode == 2
        and b"error: JAX finds no device; unset JAX_PLATFORMS (it is 'rocm,nonsense'), or" in done.stderr
    )
    assert done.stderr.count(b"error") == 1 and b"Traceback" not in done.stderr


def test_a_file_name_that_is_not_text():
    code = r"from jaxhand.io import console; console.prepare(); print('a\udcff')"
    assert run(code, PYTHONIOENCODING="utf-8:strict").stdout == b"a\xff\n"
