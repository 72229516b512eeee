"""The other processes of a run: connect to them, and end when one of them no longer answers.

JAX does both, but without a word for minutes, and it ends a process with many lines of C++.
"""

import os
import sys
import threading
import time

from jaxhand.config import UserError
from jaxhand.io import console

CONNECT_S = 300.0  # seconds to wait until all processes have started
SILENCE_S = 20.0  # seconds without a sign of life, after which a process is given up
_BEAT_S = 2.0  # seconds between two signs of life
_KEY = "jaxhand/alive/"


class PeerError(UserError):
    """The processes of a run cannot find each other."""

    leaves_threads = True


def check_address(coordinator: str) -> None:
    """Raise UserError if an address has no host or no port."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator must be HOST:PORT, such as node0:8476, got {coordinator!r}")


def connect(*arguments) -> None:
    """Call `jax.distributed.initialize`, and watch the other processes from then on.

    Another thread waits, so that Ctrl-C ends this process.

    Args:
        arguments: address of the first process, number of processes, number of this process; none: from the scheduler.

    Raises:
        PeerError: the other processes do not answer within `CONNECT_S`.
    """
    import jax

    failed = []

    def initialize():
        try:
            # JAX ends the process without an error that can be caught; the time here is never reached.
            jax.distributed.initialize(*arguments, initialization_timeout=int(10 * CONNECT_S))
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
    _Watch().start()


class _Watch:
    """Exchanges signs of life with all processes, through the first one. Ends this process if one is silent."""

    def __init__(self):
        from jax._src import distributed  # JAX has no public way to reach the store of the first process

        client = distributed.global_state.client
        assert client is not None, "`connect` has made it"
        self._client = client
        self._index = distributed.global_state.process_id
        self._answered = time.monotonic()  # when the first process answered last
        self._seen = {}  # process → (its last sign of life, when it came)

    def start(self) -> None:
        for work in (self._beat, self._judge):
            threading.Thread(target=work, daemon=True).start()

    def _beat(self) -> None:
        number = 0
        while True:
            number += 1
            try:
                self._client.key_value_set(f"{_KEY}{self._index}", str(number), allow_overwrite=True)
                signs = self._client.key_value_dir_get(_KEY)
            except Exception:  # the first process has ended: so does this one, by JAX or at its next step
                return
            self._answered = time.monotonic()
            for key, sign in signs:
                process = int(key.rpartition("/")[2])
                if self._seen.get(process, ("",))[0] != sign:
                    self._seen[process] = sign, self._answered
            time.sleep(_BEAT_S)

    def _judge(self) -> None:
        looked = time.monotonic()
        while True:
            time.sleep(1.0)
            now = time.monotonic()
            if now - looked > _BEAT_S + 1:  # this process was stopped: the others had no chance to answer
                self._answered = now
                self._seen = {process: (sign, now) for process, (sign, _) in self._seen.items()}
            looked = now
            silent = [process for process, (_, when) in list(self._seen.items()) if now - when > SILENCE_S]
            if now - self._answered > SILENCE_S:
                silent = [0]
            if silent:
                who = f"process {silent[0]} of the run does not answer for {SILENCE_S:.0f} s"
                line = f"error: {who}; all end, and the same command goes on from the last checkpoint\n"
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
                os._exit(1)
