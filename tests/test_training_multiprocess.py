"""Two and four real processes on this machine train one run: the same numbers, one console, a common end."""

import queue
import re
import signal
import socket
import time
import types

import pytest

from jaxhand.training import checkpoint_files, peers

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
def together(start, tiny_yaml, tmp_path):
    """Run one process per patch to their end; returns exit codes, stdouts without Gloo's line, stderrs and times."""

    def together(*patches, timeout=600):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", len(patches)]
        flags += ["--peer-timeout", timeout, "--process-id"]
        run = ["--config", tiny_yaml, "--workdir", tmp_path / "run"]
        processes = [start("train", *run, *flags, i, patch=patch) for i, patch in enumerate(patches)]
        ended = {}
        try:
            deadline = time.monotonic() + 240
            while len(ended) < len(processes) and time.monotonic() < deadline:
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

    return together


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


def test_two_processes_train_as_one(trained, together, tmp_path):
    (code, output, errors, _), (other_code, other_output, other_errors, _) = together("", "")
    assert (code, errors, other_code, other_output, other_errors) == (0, "", 0, "", "")
    assert_same_run(output, tmp_path / "run", trained)


@pytest.mark.slow
def test_two_processes_stop_as_one(trained, together, tmp_path):
    """SIGTERM to one of them stops both at the same step, and all is saved; the same command finishes the run.

    Then the second one finds an old listing of the folder, without steps.
    """
    patch = AT_STEP.format(count=5, action="os.kill(os.getpid(), signal.SIGTERM)")
    (code, output, errors, _), (other_code, other_output, *_) = together("", patch)
    assert (code, other_code) == (143, 143), errors
    assert "Stopped by a signal at step" in output and other_output == ""
    [stopped] = re.findall(r"at step (\d+), all is saved", output)
    assert int(stopped) in checkpoint_files.steps(tmp_path / "run" / "checkpoints")

    stale = "from jaxhand.training import checkpoint_files\ncheckpoint_files.steps = lambda folder: []"
    (code, rest, errors, _), (other_code, other_output, other_errors, _) = together("", stale)
    assert (code, other_code, other_output) == (0, 0, ""), errors + other_errors
    assert f"Going on from step {stopped} of 36" in rest
    assert_same_run(output + rest, tmp_path / "run", trained)


LOST = r"error: (another process of the run has ended: .*|the first process of the run has ended; all end, .*)\n"
RAISE, KILL = "raise UserError('image 7 is cut off')", "os.kill(os.getpid(), signal.SIGKILL)"
SLEEP = "import time; time.sleep(300)"
STOP = "import subprocess; subprocess.Popen(['sh', '-c', f'sleep 40; kill -CONT {os.getpid()}']); "
STOP += "os.kill(os.getpid(), signal.SIGSTOP)"


@pytest.mark.parametrize(
    ("who", "action", "code", "words"),
    [
        (1, RAISE, 2, "error: image 7 is cut off\n"),
        pytest.param(1, KILL, -9, "", marks=pytest.mark.slow),
        pytest.param(0, KILL, -9, "", marks=pytest.mark.slow),
        pytest.param(0, "raise RuntimeError('a bug')", 1, "RuntimeError: a bug\n", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_when_one_ends_the_others_do(together, count, who, action, code, words):
    patches = [""] * count
    patches[who] = AT_STEP.format(count=6, action=action)
    results = together(*patches)
    got, _, errors, when = results.pop(who)
    assert got == code and errors.endswith(words), errors
    for other, _, other_errors, other_when in results:
        assert other == 1 and re.fullmatch(LOST, other_errors), other_errors
        assert other_when - when < 30


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(
    ("action", "words"), [(STOP, "does not answer"), (SLEEP, "hangs: it has made no step after .*")]
)
def test_a_process_that_does_not_go_on_does_not_hold_the_others(together, count, who, action, words):
    """All end within 30 s with one line, a stopped process when it goes on."""
    patches = [""] * count
    patches[who] = AT_STEP.format(count=6, action=action)
    results = together(*patches, timeout=20)
    code, _, errors, when = results.pop(who)
    assert code == 1 and errors.count("\n") == 1, errors
    reason = f"error: process {who} of the run {words} for 20 s; all end, .*\n"
    lines = [errors, *(errors for *_, errors, _ in results)]  # a process that hangs can be the first to end
    assert all(code == 1 for code, *_ in results)
    assert any(re.fullmatch(reason, line) for line in lines) and all(line.count("\n") == 1 for line in lines), lines
    if action == STOP:
        assert all(when - other_when > 5 for *_, other_when in results)


@pytest.fixture
def ends(monkeypatch):
    """The reasons for which `peers` would have ended this process."""
    reasons = queue.Queue()
    monkeypatch.setattr(peers, "_end", reasons.put)
    monkeypatch.setattr(peers, "_GRACE_S", 0.05)
    monkeypatch.setattr(peers, "_state", lambda: types.SimpleNamespace(client="connected"))
    return reasons


@pytest.mark.parametrize("first", [True, False])
def test_the_relay_keeps_a_connection_whose_other_end_is_gone(ends, first):
    """JAX ends a process with SIGABRT when its own connection breaks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = peers._relay(f"127.0.0.1:{server.getsockname()[1]}").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as near, server.accept()[0] as far:
            far.settimeout(10)
            near.sendall(b"to the first")
            assert far.recv(99) == b"to the first"
            far.sendall(b"and back")
            assert near.recv(99) == b"and back"
            if not first:
                near.close()
                assert far.recv(99) == b""
            far.close()
            if not first:
                with pytest.raises(queue.Empty):
                    ends.get(timeout=0.5)
                return
            near.settimeout(0.02)
            with pytest.raises(TimeoutError):
                near.recv(99)
            assert ends.get(timeout=10) == "the first process of the run has ended"


@pytest.mark.parametrize(
    ("beats", "steps", "answered", "reason"),
    [
        ({0: 0, 1: 2}, {0: (7, 25), 1: (7, 30)}, 1, ""),
        ({0: 0, 1: 2}, {0: (8, 0), 1: (7, 19)}, 1, ""),
        ({0: 0, 1: 2}, {0: (8, 0), 1: (None, 90)}, 1, ""),  # the other one saves, or compiles
        ({0: 0, 1: 2}, {0: (8, 0), 1: (7, 21)}, 1, "process 1 of the run hangs: it has made no step after step 7"),
        ({0: 0, 1: 21}, {0: (8, 0), 1: (8, 0)}, 1, "process 1 of the run does not answer"),
        ({0: 1, 1: 1}, {}, 21, "process 0 of the run does not answer"),
    ],
)
def test_what_the_watch_finds(beats, steps, answered, reason):
    """All times are seconds ago."""
    watch = peers._Watch(None, 0, 20)
    watch._answered = 1000 - answered
    watch._beats = {process: ("5", 1000 - ago) for process, ago in beats.items()}
    watch._steps = {process: (step, 1000 - ago) for process, (step, ago) in steps.items()}
    assert watch._reason(1000) == reason


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
