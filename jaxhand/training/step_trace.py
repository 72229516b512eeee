"""A profiler trace of some training steps (`training.profile`), for TensorBoard and Perfetto."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from jaxhand.training import peers


class StepTrace:
    """Records the steps from `first` to `last`; a trace that cannot be written does not end the run.

    Args:
        steps: first and last step; None: no trace.
        folder: the trace is written to `plugins/profile/` in this folder, where TensorBoard finds it.
        say: prints a line.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path, say: Callable[[str], None]):
        self._steps, self._folder, self._say = steps, folder, say
        self._first = self._last = 0  # steps that are recorded so far; 0: no trace is being recorded

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Context manager around the host's part of a step; starts the trace at its first step."""
        first, last = self._steps or (0, 0)
        if not self._first and first <= number <= last:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # calls of Python functions would make the trace large and the steps slow
            with self._reported():
                jax.profiler.start_trace(self._folder, profiler_options=options)
                self._first = number
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        self._last = number

    def stop_after(self, result: jax.Array) -> None:
        """Write the trace if the step with this result is its last one."""
        if self._first and self._steps and self._last >= self._steps[1]:
            jax.block_until_ready(result)
            self.stop()

    def stop(self) -> None:
        """Write the trace if one is being recorded, and record no other."""
        if not self._first:
            return
        steps, self._steps, self._first = f"{self._first} to {self._last}", None, 0
        peers.note_step(None)  # writing can take longer than a step
        with self._reported():
            jax.profiler.stop_trace()
            place = max((self._folder / "plugins" / "profile").iterdir(), key=lambda folder: folder.stat().st_mtime)
            self._say(f"Wrote a trace of steps {steps} to {place} (for TensorBoard or ui.perfetto.dev)")

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the profiler raises many kinds of errors, and none of them may end a run
            self._steps, self._first = None, 0
            self._say(
                f"training.profile: no trace could be written ({str(error).partition(chr(10))[0]}); the run goes on"
            )
