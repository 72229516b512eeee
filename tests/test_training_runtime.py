"""The process of a command: schedulers, errors of one line with an exit code, signals, the compilation cache."""

import errno
import os
import signal
import types

import jax
import pytest

from jaxhand import train
from jaxhand.config import UserError
from jaxhand.training import peers, runtime


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--peer-timeout", 1), "--peer-timeout must be at least 10 seconds, got 1"),
        (("--num-processes", 2), "--coordinator, --num-processes and --process-id: give all three flags or none"),
        (
            ("--coordinator", "a:1", "--num-processes", 2, "--process-id", 2),
            "--process-id must be between 0 and 1, got 2",
        ),
        *(
            (
                ("--coordinator", address, "--num-processes", 2, "--process-id", 0),
                f"--coordinator must be HOST:PORT, such as node0:8476, got {address!r}",
            )
            for address in ("myhost", "myhost:", ":1", "myhost:http", "myhost:99999")
        ),
    ],
)
def test_flags_that_make_no_sense(call, flags, words):
    code, _, errors = call(train.main, *flags)
    assert code == 2 and errors == f"error: {words}\n"


@pytest.mark.parametrize(
    ("variables", "joins"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "8"}, False),  # a job of many tasks, but this process was not started by srun
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, False),  # a shell in it
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_a_scheduler_that_started_many_processes_is_joined(monkeypatch, variables, joins):
    joined = []
    monkeypatch.setattr("jaxhand.training.peers.connect", lambda *arguments, timeout: joined.append(arguments))
    for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    runtime.connect(None, None, None)
    assert joined == [()] * joins


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"),
            "error: out of memory; lower training.batch_size or the model's width: RESOURCE_EXHAUSTED: Out of memory "
            "allocating 9 bytes.\n",
        ),
        (KeyboardInterrupt(), "interrupted; run the same command to continue from the last checkpoint\n"),
    ],
)
def test_errors_of_one_line(call, error, words):
    def main():
        raise error

    code, output, errors = call(main)
    assert code in (1, 130) and (output, errors) == ("", words)


def failing(error):
    def main():
        raise error

    return main


def test_exit_codes(call):
    assert call(lambda: None)[0] == call(lambda: 0)[0] == 0 and call(lambda: 3)[0] == 3
    assert call(failing(UserError("a line"))) == (2, "", "error: a line\n")
    assert call(failing(KeyboardInterrupt()))[0] == 130
    code, _, errors = call(failing(RuntimeError("odd")))
    assert code == 1 and errors.startswith("Traceback") and errors.endswith("RuntimeError: odd\n")
    code, _, errors = call(failing(OSError(errno.ENOENT, "No such file", "a.txt")))
    assert code == 1 and "Traceback" in errors
    assert runtime.TERMINATED == 128 + signal.SIGTERM


def test_other_errors_of_a_device_are_not_called_a_lack_of_memory(call):
    code, _, errors = call(failing(jax.errors.JaxRuntimeError("INTERNAL: x" + "y" * 300)))
    assert code == 1 and "Traceback" in errors and "out of memory" not in errors
    long = call(failing(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED" + "y" * 300)))[2]
    assert long.endswith(": RESOURCE_EXHAUSTED" + "y" * (200 - 18) + "\n")


def test_the_end_of_another_process_is_one_line(call, monkeypatch):
    ended = []
    monkeypatch.setattr(runtime, "_process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", ended.append)
    for error in (jax.errors.JaxRuntimeError("UNAVAILABLE\nmore"), ValueError("Gloo all-reduce failed")):
        code, _, errors = call(failing(error))
        line = str(error).splitlines()[0]
        assert (code, errors) == (1, f"error: another process of the run has ended: {line}\n")
    assert "Traceback" in call(failing(ValueError("no such word")))[2]
    assert ended == [1, 1, 1]
    save = UserError("cannot write checkpoint 9")
    save.__cause__ = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed")
    assert call(failing(save)) == (
        1,
        "",
        "error: another process of the run has ended: UNKNOWN: Gloo AllGather failed\n",
    )
    save.__cause__ = OSError("disk full")
    assert call(failing(save)) == (2, "", "error: cannot write checkpoint 9\n")
    assert ended == [1, 1, 1, 1, 2]
    ended.clear()
    waited = []
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: waited.append(list(ended)))
    for good in (0, runtime.TERMINATED):  # a good end waits for the others
        assert call(lambda good=good: good)[0] == good
    assert ended == [0, runtime.TERMINATED] and waited == [[], [0]]


def test_an_error_that_leaves_threads_ends_at_once(call, monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    interrupted = KeyboardInterrupt()
    interrupted.leaves_threads = True
    call(failing(peers.PeerError("not all have started")))
    call(failing(interrupted))
    call(failing(UserError("plain")))
    assert ended == [2, 130]


def test_an_interrupted_run_does_not_wait_for_its_threads(call, monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def main():
        with runtime.without_waiting_for_threads():
            raise KeyboardInterrupt

    assert call(main)[2].startswith("interrupted; ") and ended == [130]


def test_signals_stop_a_run_at_the_end_of_a_step():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        with runtime.Interruption() as interruption:
            assert not interruption.reached(1)
            signal.raise_signal(number)
            assert interruption.reached(2)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    for error, words in (
        (RuntimeError("no\n tpu"), r"\(it is 'tpu'\), .*: no tpu$"),
        (AssertionError(), "for that device$"),
    ):
        monkeypatch.setattr(jax, "devices", lambda error=error: (_ for _ in ()).throw(error))
        with pytest.raises(UserError, match=words):
            runtime.check_device()


def test_an_error_without_a_device_is_that_of_the_device(call, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    code, _, errors = call(failing(ValueError("odd")))
    assert code == 2 and errors.startswith("error: JAX finds no device; unset JAX_PLATFORMS")


def test_errors_that_cannot_be_raised(monkeypatch):
    """TensorStore's, after a failed save, is left out; all others are printed as Python does."""
    printed = []
    monkeypatch.setattr(runtime.sys, "__unraisablehook__", printed.append)
    closed, other = (types.SimpleNamespace(exc_value=RuntimeError(text)) for text in ("Event loop is closed", "other"))
    runtime._print_unraisable(closed)
    runtime._print_unraisable(other)
    assert printed == [other]


def test_compiled_programs_are_kept(monkeypatch):
    settings = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: settings.__setitem__(name, value))
    runtime.use_compilation_cache()
    assert settings["jax_persistent_cache_min_compile_time_secs"] == 0
    assert settings["jax_persistent_cache_min_entry_size_bytes"] == -1
    assert "jax_compilation_cache_dir" not in settings  # set by the tests


def test_all_three_flags_reach_the_peers(monkeypatch):
    joined = []
    monkeypatch.setattr(peers, "connect", lambda *arguments, timeout: joined.append((*arguments, timeout)))
    for flags in (("host:1", 2, 0), ("host:65535", 2, 1)):
        runtime.connect(*flags, 12)
        assert joined.pop() == (*flags, 12)
    for flags in (("host:65536", 2, 0), ("host:0", 2, 0), ("host:1", 2, -1), ("host:1", None, 0), (None, 2, None)):
        with pytest.raises(UserError):
            runtime.connect(*flags)
    assert not joined
