"""Which steps belong to which epoch."""

from typing import NamedTuple


class Epochs(NamedTuple):
    """The epochs of a run. Their length changes only if the user continues a run with other data (`--allow data`)."""

    steps: int  # steps of an epoch
    count: int  # epochs of the run
    first: int = 0  # the first epoch with this number of steps
    first_step: int = 0  # steps before it

    def number(self, step: int) -> int:
        """The epoch of the step after `step`."""
        return self.first + (step - self.first_step) // self.steps

    def begin(self, number: int) -> int:
        """Steps before epoch `number`."""
        return self.first_step + (number - self.first) * self.steps

    def end(self, number: int) -> int:
        """Steps until the end of epoch `number`."""
        return self.begin(number + 1)

    @property
    def last(self) -> int:
        """Steps of the whole run, which is the length of the learning-rate schedule."""
        return self.begin(self.count)

    def restarted(self, step: int, steps: int) -> "Epochs":
        """The epoch of the step after `step` begins there (again), with another number of steps."""
        return Epochs(steps, self.count, self.number(step), step)
