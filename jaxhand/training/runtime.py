"""Set up the process of a command: the compilation cache, several hosts, and error messages with an exit code.

JAX is imported inside the functions that use it, because some commands, and every `--help`, do not need JAX.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
import typing
from collections.abc import Callable, Iterator

from jaxhand.config import UserError, cache_folder
from jaxhand.io import console
from jaxhand.training import peers

TERMINATED = 143  # exit code after SIGTERM; schedulers then start the command again
# Number of new objects after which Python searches for garbage. Imports and traces make millions that stay: with the
# default number, such searches take a tenth of the time until the first step.
_GARBAGE_EVERY = 50_000
_SHORTEST_TIMEOUT_S = 10.0  # a few signs of life
_FIRST_STEPS = 3  # steps of a command in which small programs are still compiled, and which may take long
_PROCESS_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # number of processes of this launch, not of the job


def use_compilation_cache() -> None:
    """Store all compiled programs, even small ones, in JAX_COMPILATION_CACHE_DIR or else in the cache folder."""
    import jax

    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def connect(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    peer_timeout: float = peers.PEER_TIMEOUT_S,
) -> None:
    """Connect to the other processes of a run, if there are any. Without flags, the scheduler's variables are used.

    JAX detects SLURM, Open MPI and other schedulers.

    Args:
        coordinator: address host:port of the first process.
        num_processes: number of processes of the run.
        process_id: number of this process, from 0.
        peer_timeout: seconds without a sign of life, or without a training step, after which a process is given up.

    Raises:
        UserError: only some of the three flags are set, the address has no port, the id is not below the number of
            processes, the timeout is too short, or not all processes start in time.
    """
    if peer_timeout < _SHORTEST_TIMEOUT_S:
        raise UserError(f"--peer-timeout must be at least {_SHORTEST_TIMEOUT_S:g} seconds, got {peer_timeout:g}")
    if (coordinator, num_processes, process_id) != (None, None, None):
        if coordinator is None or num_processes is None or process_id is None:
            raise UserError("--coordinator, --num-processes and --process-id: give all three flags or none")
        if not 0 <= process_id < num_processes:
            raise UserError(f"--process-id must be between 0 and {num_processes - 1}, got {process_id}")
        peers.check_address(coordinator)
        peers.connect(coordinator, num_processes, process_id, timeout=peer_timeout)
    elif any(int(os.environ.get(name, 1)) > 1 for name in _PROCESS_COUNTS):
        peers.connect(timeout=peer_timeout)


class Interruption:
    """Context manager: after SIGTERM or SIGUSR1, the run stops at the end of a step.

    All processes of a run stop after the same step, even if only one process got the signal.
    """

    def __enter__(self) -> "Interruption":
        import jax

        self._signalled, self._before, self._steps = False, {}, 0
        self._alone = jax.process_count() == 1
        # In a run with several processes, `peers.common_stop` or JAX itself handles SIGTERM.
        handlers = {signal.SIGTERM: self._stop} if self._alone else {}
        if threading.current_thread() is threading.main_thread():
            for number, handler in (handlers | {signal.SIGUSR1: self._terminate}).items():
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number, frame) -> None:
        self._signalled = True

    def _terminate(self, number, frame) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def reached(self, step: int) -> bool:
        """Whether to stop after this step. Every process must call this method after every step."""
        from jax.experimental import multihost_utils

        if self._alone:
            return self._signalled
        self._steps += 1
        peers.note_step(step if self._steps >= _FIRST_STEPS else None)
        if peers.common_stop is None:  # the user's own script has connected the processes
            return multihost_utils.reached_preemption_sync_point(step)
        return peers.common_stop.reached()


@contextlib.contextmanager
def without_waiting_for_threads() -> Iterator[None]:
    """Context manager: after Ctrl-C in its block, `run` ends the process at once.

    An ordinary end waits for all threads and processes that read data, and one of them may hang.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.leaves_threads = True  # pyright: ignore[reportAttributeAccessIssue] (read by `run`)
        raise


def _process_count() -> int:
    """Number of processes of the run; 1 if they were not connected."""
    jax = sys.modules.get("jax")
    return jax.process_count() if jax is not None and jax.distributed.is_initialized() else 1


def check_device() -> None:
    """Check that JAX finds a device.

    Raises:
        UserError: JAX_PLATFORMS names a platform that this machine or this installation does not have.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX's error for a plugin that finds no device has no text
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = f": {' '.join(str(error).split())[:200]}" if str(error) else ""
        hint = f"unset JAX_PLATFORMS (it is {wanted!r}), or install JAX for that device"
        raise UserError(f"JAX finds no device; {hint}{reason}") from None


def _print_unraisable(unraisable) -> None:
    """Print an error that cannot be raised as Python does, except one that TensorStore reports after a failed save.

    It says that the event loop which waited for TensorStore has ended. The error of the save itself is raised.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def run(main: Callable[[], int], *arguments) -> None:
    """Call a command and exit with its code. A `UserError` is printed as one line on stderr; its exit code is 2.

    Args:
        main: the function of the command, which returns an exit code or None.
        arguments: arguments of `main`.
    """
    console.prepare()
    gc.set_threshold(_GARBAGE_EVERY)
    sys.unraisablehook, at_once = _print_unraisable, False
    try:
        code = main(*arguments) or 0
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        peers.claim_last_word()
        print("interrupted; run the same command to continue from the last checkpoint", file=sys.stderr)
        code, at_once = 130, getattr(error, "leaves_threads", False)
    except Exception as error:
        peers.claim_last_word()
        code, at_once = _report(error), getattr(error, "leaves_threads", False)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    if code and at_once:
        os._exit(code)  # an ordinary exit waits for the threads
    if _process_count() > 1:
        if code in (0, TERMINATED):
            import jax

            jax.distributed.shutdown()  # waits for the other processes, which end now too
        os._exit(code)  # an ordinary exit waits for other processes, or ends with SIGABRT in a thread of `peers`
    sys.exit(code)


def _is_of_peers(error: BaseException | None) -> bool:
    """Whether an error can mean that another process has ended: JAX raises ValueError for Gloo, which connects CPUs."""
    import jax

    return isinstance(error, jax.errors.JaxRuntimeError) or isinstance(error, ValueError) and "Gloo" in str(error)


def _report(error: Exception) -> int:
    """Print an error of a command, in one line where a user can do something about it; returns the exit code."""
    if isinstance(error, OSError) and console.is_full_or_closed(error):
        console.discard_stdout()
        print(f"error: the output cannot be written ({error.strerror}), and is not complete", file=sys.stderr)
        return 1
    if not isinstance(error, UserError) and "jax" in sys.modules:
        try:
            check_device()
        except UserError as no_device:
            error = no_device
    if isinstance(error, UserError):
        # Such as a save that waited for a lost process
        is_of_peers = "jax" in sys.modules and _is_of_peers(error.__cause__) and _process_count() > 1
        if not is_of_peers:
            print(f"error: {error}", file=sys.stderr)
            return 2
        error = typing.cast(Exception, error.__cause__)
    import jax

    reason = str(error).partition("\n")[0][:200]
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in reason:
        print(f"error: out of memory; lower training.batch_size or the model's width: {reason}", file=sys.stderr)
    elif _is_of_peers(error) and _process_count() > 1:
        print(f"error: another process of the run has ended: {reason}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    return 1
