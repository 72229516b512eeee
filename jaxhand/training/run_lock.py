"""A lock on a run folder: only one run at a time trains in it.

The lock is the file `lock.json` in the folder. Its owner changes the modification time of the file every few seconds.
A process that finds the file takes it over if the owner is dead. On the same machine, the owner's process is looked
up. On another machine, the owner is dead if the modification time does not change for a while: no clocks are compared.
"""

import contextlib
import datetime
import errno
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TextIO

import jax

from jaxhand.config import UserError
from jaxhand.training.checkpoint_damage import agree

NAME = "lock.json"
BEAT_S = 5.0  # seconds between two changes of the modification time
PATIENCE_S = 30.0  # seconds without a change, after which an owner on another machine is dead


class RunLock:
    """Context manager: this run is the only one that trains in the folder. Of many processes, the first holds it.

    Args:
        workdir: run folder; it is made if it does not exist.

    Raises:
        UserError: another run holds the lock (the error says which), or the folder cannot be written to. Nothing is
            changed then.
    """

    def __init__(self, workdir: Path):
        self._path = workdir / NAME
        self._me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "machine": _machine(),
            "run": uuid.uuid4().hex,
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        self._ended = threading.Event()

    def __enter__(self) -> "RunLock":
        error = None
        if jax.process_index() == 0:
            try:
                self._acquire()
            except UserError as exception:
                error = exception
        if not agree(error is None):
            raise error or UserError(f"the first process cannot lock {self._path.parent}; its error says why")
        if jax.process_index() == 0:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                if self._is_mine():
                    self._path.unlink()
                self._path.parent.rmdir()  # if nothing was written

    def check(self) -> None:
        """Raise UserError if another run took the lock over, because this process did not run for a while."""
        if jax.process_index() == 0 and not self._is_mine():
            owner = _owner(_read(self._path)) if self._path.exists() else "a process that has ended"
            raise UserError(
                f"{self._path.parent}: the lock of this run was taken over by {owner}, because this process did not "
                "answer; nothing more is written"
            )

    def _acquire(self) -> None:
        try:
            for _ in range(100):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # the owner ends at this moment
                    if self._take():
                        return
            raise FileNotFoundError(errno.ENOENT, f"{NAME} is removed again and again, or is a link to nothing")
        except OSError as error:
            raise UserError(f"cannot write to the run folder {self._path.parent}: {error.strerror}") from error

    def _take(self) -> bool:
        """Write this run into the lock. Returns False if the file was removed in the meantime.

        Several processes can find the lock of a dead owner at once: one at a time judges it and writes into the same
        file. An empty file is free: its maker has not come further and waits, too.
        """
        with os.fdopen(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o666), "r+", errors="replace") as file:
            _wait_for_others(file)
            found = file.read()
            if found and self._is_alive(found):
                raise UserError(
                    f"{self._path.parent}: {_owner(_read(self._path))} trains in this folder. "
                    "Wait for its end, or choose another --workdir; if there is no such process, delete "
                    f"{self._path}"
                )
            file.seek(0)
            file.truncate()
            file.write(json.dumps(self._me))
            file.flush()
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())

    def _is_alive(self, text: str) -> bool:
        """Whether the owner of a lock with this content is alive."""
        owner = _parsed(text)
        if owner.get("machine") == self._me["machine"]:
            return _process_start(owner.get("pid")) == owner.get("process_start")
        print(
            f"{self._path.parent} is locked by {_owner(text)}; waiting up to {PATIENCE_S:.0f} s to see whether it is "
            "alive",
            file=sys.stderr,
            flush=True,
        )
        end, beat = time.monotonic() + PATIENCE_S, self._modified()
        while time.monotonic() < end:
            time.sleep(min(BEAT_S / 10, PATIENCE_S / 10))
            if self._modified() != beat:
                return True
        return False

    def _modified(self) -> int:
        with self._path.open() as file:  # opening makes NFS ask the server
            return os.fstat(file.fileno()).st_mtime_ns

    def _is_mine(self) -> bool:
        try:
            return _parsed(_read(self._path)).get("run") == self._me["run"]
        except OSError:
            return False

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                if self._is_mine():
                    os.utime(self._path)


def _wait_for_others(file: TextIO) -> None:
    """Wait until no other process judges this lock. Where a file system cannot do it, `RunLock.check` finds out."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX)


def _read(path: Path) -> str:
    return path.read_text(errors="replace")


def _parsed(text: str) -> dict:
    """The content of a lock; {} if it is not complete."""
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):
        owner = None
    return owner if isinstance(owner, dict) else {}


def _owner(text: str) -> str:
    owner = _parsed(text)
    if not owner:
        return "a process that does not say its name"
    return f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')} (run {owner.get('run')}),"


def _machine() -> str:
    """What is equal for processes that can look each other up: the started system and the space of process numbers."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_start(pid: object) -> str | None:
    """When a process on this machine started, as text to compare; None if there is no such process."""
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return None
    if Path("/proc/self/stat").exists():
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if state in "ZX" else rest[18]  # ticks since the system started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"
