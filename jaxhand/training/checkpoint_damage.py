"""Damaged checkpoints: found, agreed on by all processes, and described in one line."""

import contextlib
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxhand.config import UserError
from jaxhand.training import checkpoint_files


class CheckpointError(UserError):
    """A checkpoint could not be written, found or read."""


class Damaged(Exception):
    """What is wrong with a step's files."""


@contextlib.contextmanager
def as_damage():
    """Turn whatever Orbax raises over a step's files, here or on another process, into `Damaged`."""
    error = None
    try:
        yield
    except Exception as exception:
        error = exception
    if not agree(error is None):
        raise Damaged(first_line(error) if error else "unreadable on another process") from error


def verify(step_folder: Path, items: tuple[str, ...]) -> None:
    """Compare the files of a step's items with what was written; the first process reads for all.

    Raises:
        Damaged: a file differs.
    """
    damage = checkpoint_files.damage(step_folder, items) if jax.process_index() == 0 else None
    if not agree(damage is None):
        raise Damaged(damage or "found by the first process")


def agree(ok: bool) -> bool:
    """Whether `ok` is true on all processes, so that they take the same branch; each waits for all others."""
    return ok if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(ok)).all())


def none_readable(folder: Path, damaged: dict[int, Exception]) -> CheckpointError:
    """The error for a folder whose steps are all damaged.

    Args:
        folder: with all steps of a run.
        damaged: step → what is wrong.
    """
    listed = ", ".join(f"{step}: {damage}" for step, damage in damaged.items())
    return CheckpointError(f"no checkpoint in {folder} can be read ({listed}); move the folder away to start anew")


def first_line(error: Exception) -> str:
    """The start of an error's first line; TensorStore's messages have a hundred lines."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) < 200 else f"{line[:200]}…"


def warn(line: str) -> None:
    """Print a line to stderr, on the first process only."""
    if jax.process_index() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)
