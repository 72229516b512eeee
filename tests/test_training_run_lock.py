"""The lock on a run folder: who may train in it, and what happens to the lock of a dead process."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from jaxhand import train
from jaxhand.config import UserError
from jaxhand.training import run_lock
from jaxhand.training.run_lock import NAME, RunLock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT_S", 0.02)
    monkeypatch.setattr(run_lock, "PATIENCE_S", 0.3)


def write(folder, **changes):
    folder.mkdir(exist_ok=True)
    lock = {"host": "elsewhere", "pid": 7, "process_start": "1", "machine": "another", "run": "abc", "since": "today"}
    (folder / NAME).write_text(json.dumps(lock | changes))


def locked(folder):
    with RunLock(folder) as lock:
        lock.check()
        return json.loads((folder / NAME).read_text())


def test_it_names_its_owner_and_goes_with_it(tmp_path):
    owner = locked(tmp_path / "run")
    assert owner["pid"] == os.getpid() and owner["since"].startswith("20") and owner["host"] and owner["run"]
    assert not (tmp_path / "run").exists()  # nothing was written into it
    (tmp_path / "file").write_text("")
    locked(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_second_says_whose_it_is_and_touches_nothing(tmp_path):
    with RunLock(tmp_path):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
        with pytest.raises(UserError) as error, RunLock(tmp_path):
            pass
        assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before
        owner = json.loads((tmp_path / NAME).read_text())
    assert str(error.value).startswith(f"{tmp_path}: process {os.getpid()} on {owner['host']}, since {owner['since']}")
    assert "\n" not in str(error.value)


def test_train_is_refused(tmp_path, tiny_yaml, call):
    with RunLock(tmp_path):
        code, output, errors = call(train.main, "--config", tiny_yaml, "--workdir", tmp_path)
        assert (code, output) == (2, "") and errors.startswith(f"error: {tmp_path}: process {os.getpid()} on ")
        assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE_S", 1e9)
    code = "import sys, time, pathlib\nfrom jaxhand.training.run_lock import RunLock\n"
    code += "with RunLock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            locked(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert locked(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("pid", [2**22 + 1, pytest.param(os.getpid(), id="this one"), "x", -1, None])
def test_a_process_number_that_was_given_again_is_not_the_owner(tmp_path, monkeypatch, pid):
    monkeypatch.setattr(run_lock, "PATIENCE_S", 1e9)
    write(tmp_path, machine=run_lock._machine(), pid=pid)
    assert locked(tmp_path)["run"] != "abc"


def test_another_machine_that_is_alive(tmp_path, capsys):
    write(tmp_path)
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(tmp_path / NAME)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 7 on elsewhere, since today .run abc., trains in this folder"):
            locked(tmp_path)
    finally:
        ended.set()
        thread.join()
    assert "waiting up to 0 s to see whether it is alive" in capsys.readouterr().err
    assert json.loads((tmp_path / NAME).read_text())["run"] == "abc"


@pytest.mark.parametrize("text", [None, "", "[]", "null", '{"pid"', "\udcff", "[" * 100_000])
def test_a_lock_without_a_living_owner_is_taken_over(tmp_path, text, capsys):
    """Of another machine, or not completely written; its clock may be wrong by years."""
    write(tmp_path)
    if text is not None:
        (tmp_path / NAME).write_bytes(text.encode(errors="surrogateescape"))
    os.utime(tmp_path / NAME, (2e9, 2e9))
    assert locked(tmp_path)["pid"] == os.getpid()
    assert not list(tmp_path.glob(f"{NAME}*"))


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_only_one_gets_it(tmp_path, dead):
    for number in range(20):
        folder = tmp_path / str(number)
        if dead:
            write(folder, machine=run_lock._machine(), pid=2**22 + 1)
        start, end, got = threading.Barrier(4, timeout=60), threading.Barrier(4, timeout=60), []

        def run(folder=folder, start=start, end=end, got=got):
            start.wait()
            try:
                with RunLock(folder) as lock:
                    got.append(lock)
                    end.wait()
                    lock.check()
            except UserError:
                end.wait()

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1 and not folder.exists()


def test_an_owner_that_slept_notices_that_it_was_replaced(tmp_path):
    with RunLock(tmp_path) as lock:
        write(tmp_path)
        with pytest.raises(UserError, match="was taken over by process 7 on elsewhere"):
            lock.check()
    assert json.loads((tmp_path / NAME).read_text())["run"] == "abc"  # and leaves the other's lock alone


def test_folders_that_cannot_be_locked(tmp_path):
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"^cannot write to the run folder {folder}: "):
            locked(folder)
