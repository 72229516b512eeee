"""The process a command runs in: compilation cache, many hosts, and errors as one line and an exit code.

JAX is imported where it is used: `run` also serves commands and `--help`s that need none.
"""

import os
import signal
import sys
import threading
import traceback

from jaxhand.config import UserError, cache_folder

TERMINATED = 143  # exit code after SIGTERM, which schedulers take as "run me again"
_PROCESS_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # of this very launch, not of the whole job


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, the smallest included, unless JAX_COMPILATION_CACHE_DIR says where."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes of a run: by the flags, or as the scheduler (SLURM, Open MPI, …) says, or stay alone.

    Raises:
        UserError: only some of the three flags are given, or the id is none of theirs.
    """
    import jax

    if (coordinator, num_processes, process_id) != (None, None, None):
        if coordinator is None or num_processes is None or process_id is None:
            raise UserError("--coordinator, --num-processes and --process-id go together: give all three or none")
        if not 0 <= process_id < num_processes:
            raise UserError(f"--process-id must lie in 0..{num_processes - 1}, got {process_id}")
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif any(int(os.environ.get(name, 1)) > 1 for name in _PROCESS_COUNTS):
        jax.distributed.initialize()


class Interruption:
    """Whether the run was asked to stop (SIGTERM, SIGUSR1), while in the context.

    All processes of a run learn of it at the same step, whichever was asked.
    """

    def __enter__(self) -> "Interruption":
        import jax

        self._asked, self._before = False, {}
        self._alone = jax.process_count() == 1
        # JAX itself waits for SIGTERM in a run over many processes.
        handlers = {signal.SIGTERM: self._ask} if self._alone else {}
        if threading.current_thread() is threading.main_thread():
            for number, handler in (handlers | {signal.SIGUSR1: self._terminate}).items():
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number, frame) -> None:
        self._asked = True

    def _terminate(self, number, frame) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def reached(self, step: int) -> bool:
        """To be called after every step by every process."""
        from jax.experimental import multihost_utils

        return self._asked if self._alone else multihost_utils.reached_preemption_sync_point(step)


def _process_count() -> int:
    """How many processes train together; 1 where nothing has imported JAX."""
    return sys.modules["jax"].process_count() if "jax" in sys.modules else 1


def run(main, *arguments) -> None:
    """Call a command and leave with its exit code; a user's error becomes one line on stderr and exit code 2."""
    try:
        code = main(*arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # who reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        import jax

        reason = str(error).partition("\n")[0][:200]
        if not isinstance(error, jax.errors.JaxRuntimeError):
            traceback.print_exc()
        elif "RESOURCE_EXHAUSTED" in reason:
            print(f"error: out of memory, lower training.batch_size or the model's width: {reason}", file=sys.stderr)
        elif _process_count() > 1:
            print(f"error: another process of the run is gone: {reason}", file=sys.stderr)
        else:
            traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if code and _process_count() > 1:
        os._exit(code)  # an ordinary exit would wait minutes for processes that wait for this one
    sys.exit(code)
