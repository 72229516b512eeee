"""Find damaged checkpoints, report the damage to all processes, and describe it in one line."""

import contextlib
import errno
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxhand.config import UserError
from jaxhand.training import checkpoint_files

VISIBLE_S = 120.0  # seconds: network file systems remember for a minute that a file is not there
_FULL = {errno.ENOSPC: "No space left", errno.EDQUOT: "quota exceeded", errno.EFBIG: "File too large"}


class CheckpointError(UserError):
    """A checkpoint could not be written, found or read."""


class SaveError(CheckpointError):
    """A checkpoint could not be written."""

    leaves_threads = True  # of Orbax, which can wait for ever; see `runtime.run`


class Damaged(Exception):
    """A file of a checkpoint is missing or changed; the message describes the damage."""


@contextlib.contextmanager
def as_damage():
    """Context manager: an error of Orbax in it, on this or another process, is raised as `Damaged`."""
    error = None
    try:
        yield
    except Exception as exception:
        error = exception
    if not agree(error is None):
        raise Damaged(first_line(error) if error else "another process cannot read it") from error


def verify(step_folder: Path, items: tuple[str, ...]) -> None:
    """Check the files of the given checkpoint items, such as "params", against their checksums.

    Only the first process reads the files; all processes get the result.

    Raises:
        Damaged: a file is missing or differs from its checksum.
    """
    damage = checkpoint_files.damage(step_folder, items) if jax.process_index() == 0 else None
    if not agree(damage is None):
        raise Damaged(damage or "the first process found a damaged file")
    _wait_until_visible(step_folder)


def agree(ok: bool) -> bool:
    """Whether `ok` is true on all processes. Each process must call this function, and waits for all others."""
    return ok if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(ok)).all())


def of_first(value: Any) -> Any:
    """The value of the first process, which JSON can hold, on all processes. Each process must call this function.

    On a file system that hosts share, the listing of a folder can be a minute old on another host.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(np.resize(text, length)))))


def read_metas(folder: Path) -> tuple[dict[int, dict], dict[int, str]]:
    """What `checkpoint_files.read_metas` returns on the first process. Each process must call this function."""
    found, damaged = of_first([list(each.items()) for each in checkpoint_files.read_metas(folder)])
    return dict(found), dict(damaged)


def _wait_until_visible(step_folder: Path) -> None:
    """Wait until this process finds all files of a step that the first process has found; `VISIBLE_S` at most."""
    end = time.monotonic() + VISIBLE_S
    while jax.process_index() and checkpoint_files.has_unseen(step_folder) and time.monotonic() < end:
        time.sleep(0.5)


def set_aside(step_folder: Path) -> Path:
    """Rename a damaged step to `damaged-<step>`, or with a further number if there is one already; returns the path.

    Only the first process renames it.
    """
    ends = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    places = (step_folder.with_name(f"damaged-{step_folder.name}{end}") for end in ends)
    aside = next(place for place in places if not place.exists())
    if jax.process_index() == 0:
        step_folder.rename(aside)
    return aside


def reason(error: Exception) -> str:
    """Why a save failed, in one line."""
    full = getattr(error, "errno", None) in _FULL or any(text in str(error) for text in _FULL.values())
    return f"disk full ({first_line(error)})" if full else first_line(error)


def none_readable(folder: Path, damaged: dict[int, Exception]) -> CheckpointError:
    """The error for a folder whose steps are all damaged.

    Args:
        folder: `checkpoints/` of a run.
        damaged: step → error.
    """
    listed = ", ".join(f"{step}: {damage}" for step, damage in damaged.items())
    return CheckpointError(f"no checkpoint in {folder} can be read ({listed}); move the folder away to start again")


def misfit(path: Path, item: str, difference: str) -> CheckpointError:
    """The error for a checkpoint whose arrays are not those that the config needs.

    Args:
        path: folder of the step.
        item: item of the checkpoint that does not fit, such as "params".
        difference: what `pytree_checks.mismatch` returned.
    """
    if item != "optimizer":
        return CheckpointError(f"checkpoint {path} does not fit the model: {difference}")
    keys = "optimizer.name, optimizer.rates, optimizer.clip_norm, training.ema and training.average_with_init"
    start = f"training.init_from={path.parent.parent}"
    return CheckpointError(
        f"checkpoint {path} has the state of another optimizer. Keep {keys} as they were, or begin a new run with "
        f"{start} ({difference})"
    )


def first_line(error: Exception) -> str:
    """The first line of an error, at most 200 characters; TensorStore's messages have a hundred lines."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) < 200 else f"{line[:200]}…"


def warn(line: str) -> None:
    """Print a line to stderr, on the first process only."""
    if jax.process_index() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)
