"""All processes of a run stop after the same step when one of them gets a signal.

JAX has such an agreement too (`reached_preemption_sync_point`). But that function keeps Python's interpreter lock while
it waits for messages, and in `peers` the messages need this lock: a run could stand still for minutes after SIGTERM.
"""

import signal
import threading
from typing import Any

_WANTED, _AT = "jaxhand/stop/wanted/", "jaxhand/stop/at/"
_BARRIER = "jaxhand/stop"
_LOOK_S = 1.0  # seconds between two looks whether another process wants to stop
_BARRIER_S = 120.0  # until all processes have looked


class CommonStop:
    """Agrees on the step after which all processes stop.

    A process that wants to stop writes that down. As soon as the others find it, each process writes how many steps it
    has finished, and finishes no further one until it has read the numbers of all. They stop one step after the
    largest number, which no process has passed.

    Args:
        client: JAX's client of the store that all processes share.
        index: number of this process.
    """

    def __init__(self, client: Any, index: int):
        self._client, self._index = client, index
        self._wanted, self._lock = threading.Event(), threading.Lock()
        self._count, self._last = 0, None  # finished steps; the one after which to stop

    def start(self) -> None:
        """From now on, SIGTERM to this process is a wish to stop. Call this in the main thread."""
        signal.signal(signal.SIGTERM, lambda *_: self._wanted.set())
        threading.Thread(target=self._agree, daemon=True).start()

    def reached(self) -> bool:
        """Whether to stop now. Every process must call this method after every step."""
        with self._lock:
            self._count += 1
            return self._last is not None and self._count >= self._last

    def _agree(self) -> None:
        try:
            while not self._wanted.wait(_LOOK_S) and not self._client.key_value_dir_get(_WANTED):
                pass
            self._client.key_value_set(f"{_WANTED}{self._index}", "yes")
            with self._lock:
                self._client.key_value_set(f"{_AT}{self._index}", str(self._count))
                self._client.wait_at_barrier(_BARRIER, int(_BARRIER_S * 1000))
                self._last = 1 + max(int(count) for _, count in self._client.key_value_dir_get(_AT))
        except Exception:  # a process is leaving the run; `peers` ends this one if it was lost
            return
