"""The other processes of a run: connect to them, and end when one of them is lost.

Without this, JAX waits for a lost process for minutes, or ends this one with SIGABRT and many lines of C++. Therefore
JAX's own time limits are switched off, and its connection to the first process goes through `_relay`.
"""

import contextlib
import os
import socket
import sys
import threading
import time

from jaxhand.config import UserError
from jaxhand.io import console
from jaxhand.training.common_stop import CommonStop

CONNECT_S = 300.0  # seconds to wait until all processes have started
PEER_TIMEOUT_S = 20.0  # seconds without a sign of life, or without a training step, after which a process is given up
_GRACE_S = 5.0  # seconds that this process has to end by itself when the first process has ended
_BEAT_S = 2.0  # seconds between two signs of life
_NEVER_S = 10**6  # a time limit of JAX that is never reached
_KEY = "jaxhand/alive/"

common_stop: CommonStop | None = None  # of the processes that `connect` has connected
_last_word = threading.RLock()
_step: int | None = None  # the training step that this process has begun last; None: it does something else


class PeerError(UserError):
    """The processes of a run cannot find each other."""

    leaves_threads = True


def check_address(coordinator: str) -> None:
    """Raise UserError if an address has no host or no port."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator must be HOST:PORT, such as node0:8476, got {coordinator!r}")


def note_step(step: int | None) -> None:
    """Note that this process has begun a training step, and will soon begin the next; None: it will not."""
    global _step
    _step = step


def claim_last_word() -> None:
    """Return if this thread is the first to end the process, and may print why; wait for the end if it is not."""
    _last_word.acquire()


def connect(*arguments, timeout: float = PEER_TIMEOUT_S) -> None:
    """Call `jax.distributed.initialize`, and watch the other processes from then on.

    Another thread waits, so that Ctrl-C ends this process.

    Args:
        arguments: address of the first process, number of processes, number of this process; none: from the scheduler.
        timeout: seconds without a sign of life, or without a training step, after which a process is given up.

    Raises:
        PeerError: the other processes do not answer within `CONNECT_S`.
    """
    failed = []

    def initialize():
        try:
            _initialize(*(arguments or _from_scheduler()))
        except Exception as error:
            failed.append(error)

    first = f"the first process at {arguments[0]}" if arguments else "the first process"
    thread = threading.Thread(target=initialize, daemon=True)
    with console.patience(f"waiting for all processes of the run; {first} connects them"):
        thread.start()
        end = time.monotonic() + CONNECT_S
        try:
            while thread.is_alive() and time.monotonic() < end:
                thread.join(0.2)
        except KeyboardInterrupt as error:
            error.leaves_threads = True  # pyright: ignore[reportAttributeAccessIssue] (read by `runtime.run`)
            raise
    if thread.is_alive():
        raise PeerError(
            f"not all processes of the run have started within {CONNECT_S:.0f} s, or {first} cannot be reached"
        )
    if failed:
        raise failed[0]
    state = _state()
    _Watch(state.client, state.process_id, timeout).start()
    global common_stop
    common_stop = CommonStop(state.client, state.process_id)
    common_stop.start()


def _from_scheduler() -> tuple:
    """The address of the first process, the number of processes and the number of this process, as JAX detects them."""
    from jax._src import clusters  # JAX has no public way to detect them without a connection

    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    return detect(address, None, None, None, None, int(CONNECT_S))[:3]


def _initialize(address: str, processes: int, index: int) -> None:
    """Call `jax.distributed.initialize` without time limits; JAX ends a process with SIGABRT when one is reached."""
    import jax

    jax.distributed.initialize(
        _relay(address) if index else address,
        processes,
        index,
        initialization_timeout=_NEVER_S,
        heartbeat_timeout_seconds=_NEVER_S,
        shutdown_timeout_seconds=_NEVER_S,
    )


def _relay(address: str) -> str:
    """Pass connections on to an address; returns the local address that takes them.

    JAX ends a process with SIGABRT at the moment when its connection to the first process breaks. The relay keeps
    JAX's end of the connection open, and ends the process in order.
    """
    host, _, port = address.rpartition(":")
    if any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy")):  # cannot reach the relay
        direct = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy"), "127.0.0.1"
        os.environ["no_grpc_proxy"] = ",".join(filter(None, direct))
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection((host.strip("[]"), int(port)), timeout=_BEAT_S)
            except OSError:  # the first process has not started; JAX tries again
                near.close()
                continue
            for end in (near, far):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            closed = threading.Event()  # by JAX
            threading.Thread(target=outwards, args=(near, far, closed), daemon=True).start()
            threading.Thread(target=inwards, args=(near, far, closed), daemon=True).start()

    def outwards(near, far, closed):
        while received := _received(near):
            try:
                far.sendall(received)
            except OSError:  # the first process has ended, which `inwards` finds too
                return
        closed.set()
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_RDWR)

    def inwards(near, far, closed):
        with contextlib.suppress(OSError):
            while received := _received(far):
                near.sendall(received)
        if not closed.is_set():
            time.sleep(_GRACE_S)
            if _state().client is not None:
                _end("the first process of the run has ended")
        near.close()
        far.close()

    threading.Thread(target=accept, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _received(end: socket.socket) -> bytes:
    """The next bytes; none if the connection is closed or broken."""
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""


def _state():
    """JAX's state of the connection to the first process; its `client` is None after an orderly end."""
    from jax._src import distributed  # JAX has no public way to reach it

    return distributed.global_state


def _end(reason: str) -> None:
    """End this process with one line, unless it is already ending."""
    claim_last_word()
    line = f"error: {reason}; all end, and the same command goes on from the last checkpoint\n"
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
    os._exit(1)


class _Watch:
    """Exchanges signs of life with all processes, through the first one. Ends this process if one is silent or hangs.

    A process hangs if it has begun fewer steps than another one, and begins no further one.
    """

    def __init__(self, client, index: int, timeout: float):
        """Make a watch of a JAX client, which reaches the store of the first process, for process `index`."""
        self._client, self._index, self._timeout = client, index, timeout
        self._answered = time.monotonic()  # when the first process answered last
        self._beats = {}  # process → (number of its last sign of life, when it came)
        self._steps = {}  # process → (its last step or None, when it came)

    def start(self) -> None:
        for work in (self._beat, self._judge):
            threading.Thread(target=work, daemon=True).start()

    def _beat(self) -> None:
        number = 0
        while True:
            number += 1
            try:
                self._client.key_value_set(f"{_KEY}{self._index}", f"{number} {_step or ''}", allow_overwrite=True)
                signs = self._client.key_value_dir_get(_KEY)
            except Exception:  # this process is leaving the run; otherwise `_judge` ends it
                return
            self._answered = time.monotonic()
            for key, sign in signs:
                process, (beat, _, step) = int(key.rpartition("/")[2]), sign.partition(" ")
                for seen, value in ((self._beats, beat), (self._steps, int(step) if step else None)):
                    if process not in seen or seen[process][0] != value:
                        seen[process] = value, self._answered
            time.sleep(_BEAT_S)

    def _judge(self) -> None:
        looked = time.monotonic()
        while True:
            time.sleep(1.0)
            now = time.monotonic()
            late = now - looked - 1.0
            if late > 1:  # this process did not run: the others had no chance to answer
                self._answered += late
                for seen in (self._beats, self._steps):
                    seen |= {process: (value, when + late) for process, (value, when) in list(seen.items())}
            looked = now
            if reason := self._reason(now):
                _end(f"{reason} for {self._timeout:g} s")

    def _reason(self, now: float) -> str:
        """Why this process cannot go on; empty if it can."""
        if now - self._answered > self._timeout:
            return "process 0 of the run does not answer"
        for process, (_, when) in list(self._beats.items()):
            if now - when > self._timeout:
                return f"process {process} of the run does not answer"
        steps = {process: entry for process, entry in list(self._steps.items()) if entry[0] is not None}
        last = max((step for step, _ in steps.values()), default=0)
        for process, (step, when) in steps.items():
            if step < last and now - when > self._timeout:
                return f"process {process} of the run hangs: it has made no step after step {step}"
        return ""
