"""Two real processes on this machine train one run: the same numbers, one console, a common end."""

import re
import signal
import socket
import time

import pytest

from jaxhand.training import checkpoint_files

AT_STEP = """
from jaxhand.config import UserError
from jaxhand.training import loop
import os, signal
real, calls = loop.to_global, []
def to_global(batch, mesh):
    calls.append(0)
    if len(calls) == {count}:
        {action}
    return real(batch, mesh)
loop.to_global = to_global
"""


@pytest.fixture
def pair(start, tiny_yaml, tmp_path):
    """Run both processes to their end; returns their exit codes, stdouts without Gloo's line, stderrs and times."""

    def pair(patches=("", "")):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id"]
        run = ["--config", tiny_yaml, "--workdir", tmp_path / "run"]
        processes = [start("train", *run, *flags, i, patch=patches[i]) for i in range(2)]
        ended = {}
        try:
            deadline = time.monotonic() + 240
            while len(ended) < 2 and time.monotonic() < deadline:
                for i, process in enumerate(processes):
                    if i not in ended and process.poll() is not None:
                        ended[i] = time.monotonic()
                time.sleep(0.05)
        finally:
            for process in processes:
                process.kill()
        results = []
        for i, process in enumerate(processes):
            output, errors = process.communicate()
            output = re.sub(r"^\[Gloo\].*\n", "", output, flags=re.MULTILINE)
            results.append((process.returncode, output, errors, ended.get(i)))
        return results

    return pair


def without_numbers(line):
    return re.sub(r"to /.*|[\d.]+", "", line)


def numbers(lines):
    return [float(number) for line in lines for number in re.findall(r"\d+\.\d+(?:e-\d+)?", line.partition("to /")[0])]


def assert_same_run(output, workdir, trained):
    """Assert, epoch by epoch, the printed lines and the numbers of a run with one process."""
    ours, theirs = (
        [line for line in text.splitlines() if line.startswith((" ", "Epoch", "Best"))]
        for text in (output, trained.output)
    )
    assert [without_numbers(line) for line in ours] == [without_numbers(line) for line in theirs]
    assert numbers(ours) == pytest.approx(numbers(theirs), abs=2e-3)  # they are printed to 1e-3 mm
    ours, theirs = (checkpoint_files.metas(folder / "checkpoints")[36] for folder in (workdir, trained.workdir))
    for key in ("train_loss", "test_loss", "mpjpe", "pa_mpjpe"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key


def test_two_processes_train_as_one(trained, pair, tmp_path):
    (code, output, errors, _), (other_code, other_output, other_errors, _) = pair()
    assert (code, errors, other_code, other_output, other_errors) == (0, "", 0, "", "")
    assert_same_run(output, tmp_path / "run", trained)


@pytest.mark.slow
def test_two_processes_stop_as_one(trained, pair, tmp_path):
    """SIGTERM to one of them stops both at the same step, and all is saved; the same command finishes the run."""
    patch = AT_STEP.format(count=5, action="os.kill(os.getpid(), signal.SIGTERM)")
    (code, output, errors, _), (other_code, other_output, *_) = pair(("", patch))
    assert (code, other_code) == (143, 143), errors
    assert "Stopped by a signal at step" in output and other_output == ""
    [stopped] = re.findall(r"at step (\d+), all is saved", output)
    assert int(stopped) in checkpoint_files.steps(tmp_path / "run" / "checkpoints")

    (code, rest, errors, _), (other_code, other_output, other_errors, _) = pair()
    assert (code, other_code, other_output) == (0, 0, ""), errors + other_errors
    assert f"Going on from step {stopped} of 36" in rest
    assert_same_run(output + rest, tmp_path / "run", trained)


@pytest.mark.parametrize(
    ("who", "action", "code", "words"),
    [
        (1, "raise UserError('image 7 is cut off')", 2, "error: image 7 is cut off\n"),
        pytest.param(1, "os.kill(os.getpid(), signal.SIGKILL)", -9, "", marks=pytest.mark.slow),
        pytest.param(0, "os.kill(os.getpid(), signal.SIGKILL)", -9, "", marks=pytest.mark.slow),
        pytest.param(0, "raise RuntimeError('a bug')", 1, "RuntimeError: a bug\n", marks=pytest.mark.slow),
    ],
)
def test_when_one_ends_the_other_does(pair, who, action, code, words):
    patches = ["", ""]
    patches[who] = AT_STEP.format(count=6, action=action)
    results = pair(patches)
    (got, _, errors, when), (other, _, other_errors, other_when) = results[who], results[1 - who]
    assert got == code and errors.endswith(words), errors + other_errors
    assert other not in (0, None) and other_when - when < 10
    assert who == 0 or other_errors.startswith("error: another process of the run has ended: ")
    assert "Traceback" not in other_errors


@pytest.fixture
def alone(start, tiny_yaml, tmp_path):
    """Start the second of two processes whose first process never comes."""

    def alone(patch):
        flags = ["--coordinator", "127.0.0.1:9", "--num-processes", 2, "--process-id", 1]
        heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        imports = "from jaxhand.io import console\nfrom jaxhand.training import peers\n"
        patch = f"{heard}{imports}console.PATIENCE = 0.1\n{patch}"
        return start("train", "--config", tiny_yaml, "--workdir", tmp_path / "run", *flags, patch=patch)

    return alone


WAITING = "waiting for all processes of the run; the first process at 127.0.0.1:9 connects them\n"


def test_a_first_process_that_never_comes(alone):
    output, errors = (process := alone("peers.CONNECT_S = 1.0")).communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    assert errors == WAITING + (
        "error: not all processes of the run have started within 1 s, or the first process at 127.0.0.1:9 cannot be "
        "reached\n"
    )


def test_ctrl_c_is_heard_while_it_waits(alone):
    process = alone("")
    assert process.stderr.readline() == WAITING
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, "")
    assert errors == "interrupted; run the same command to continue from the last checkpoint\n"


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_is_stopped_does_not_hold_the_others(pair, who):
    """All end within 30 s with one line, the stopped one when it goes on."""
    action = "import subprocess; subprocess.Popen(['sh', '-c', f'sleep 40; kill -CONT {os.getpid()}']); "
    action += "os.kill(os.getpid(), signal.SIGSTOP)"
    patches = ["", ""]
    patches[who] = AT_STEP.format(count=6, action=action)
    results = pair(patches)
    (code, _, _, when), (other, _, other_errors, other_when) = results[who], results[1 - who]
    assert other == 1 and re.fullmatch(
        f"error: process {who} of the run does not answer for 20 s; all end, .*\n", other_errors
    )
    assert code not in (0, None) and when > other_when
