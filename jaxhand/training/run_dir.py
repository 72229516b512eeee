"""Make the folder of a run, or check that an existing folder belongs to the same config and the same data."""

import os
from collections.abc import Collection
from pathlib import Path

import jax

from jaxhand import config as configs
from jaxhand.config import Config, UserError
from jaxhand.data import fingerprint
from jaxhand.io import output_files
from jaxhand.training import checkpoint_files

FREE = (
    "data.threads",
    "data.workers",
    "data.cache",
    "data.strict",
    "training.test_freq",
    "training.metrics",
    "training.profile",
)  # keys without effect on the results
ALLOWED = ("config", "data")  # what may differ from the run in the folder if the user says so
PROLONGED = "training.num_epochs"
SAMPLES = "samples"  # a folder that every run has next to its config.yaml
_PLACES = ("data.train", "data.test", "hand.mano_path")  # keys with paths of files, which have fingerprints
_SETS = {"train": "the training set", "test": "the test set", "hand": "the hand model of hand.mano_path"}


def prepare(workdir: Path, config: Config, allow: Collection[str] = ()) -> list[str]:
    """Make the folder and write `config.yaml`. If the folder already contains a run, first compare the configs.

    Args:
        workdir: run folder.
        config: the experiment.
        allow: "config" if the configs may differ; see `check`.

    Returns:
        Lines about what differs.

    Raises:
        UserError: as for `check`, or the folder cannot be written to.
    """
    lines = check(workdir, config, allow)
    write(workdir, config)
    return lines


def check(workdir: Path, config: Config, allow: Collection[str] = ()) -> list[str]:
    """Compare a config with that of the run in the folder, if there is one. Nothing is written.

    A larger `training.num_epochs` prolongs the run. Paths of data sets and of MANO's file may differ if the latest
    checkpoint has fingerprints, which are compared later (see `changed_data`).

    Args:
        workdir: run folder.
        config: the experiment.
        allow: "config" if all keys may differ.

    Returns:
        Lines about the keys that differ.

    Raises:
        UserError: the folder contains checkpoints of a run with another config, and the error lists the keys that
            differ; or the folder is among the checkpoints of another run.
    """
    path, folder = workdir / "config.yaml", workdir / "checkpoints"
    output_files.check_place(workdir)
    if not checkpoint_files.steps(folder):
        return []
    in_folder = configs.load(path) if path.exists() else None
    metas = checkpoint_files.metas(folder)
    latest = metas[max(metas)] if metas else {}
    old = (
        configs.from_dict(latest["config"], source=f"config of step {max(metas)}") if "config" in latest else in_folder
    )
    if old is None:
        return []
    keys = {line.split(":")[0]: line for line in configs.differences(old, config)}
    lines = {key: line for key, line in keys.items() if key not in FREE and not _moved(key, old, config, latest)}
    if set(lines) <= ({PROLONGED} if config.training.num_epochs > old.training.num_epochs else set()):
        return []
    if "config" not in allow:
        raise UserError(
            f"{workdir}: contains a run with another config ({'; '.join(lines.values())}); choose another --workdir, "
            "or use the config of that run; --allow config goes on with the new one"
        )
    found = [f"Going on with another config: {'; '.join(lines.values())}"]
    if "training.init_from" in lines:
        found.append("training.init_from has no effect, because the run goes on from its own checkpoint")
    return found


def write(workdir: Path, config: Config) -> None:
    """Make the folder and write `config.yaml`, on the first process. Raises UserError if that cannot be done.

    A `config.yaml` that no run has written, because there is no folder `samples`, is renamed.
    """
    if jax.process_index() == 0:
        path = workdir / "config.yaml"
        try:
            if not (workdir / SAMPLES).is_dir() and (kept := output_files.keep_aside(path)):
                print(f"{path} is not of a run: it is now {kept}", flush=True)
            (workdir / SAMPLES).mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".tmp")
            draft.write_text(configs.dump(config))
            os.replace(draft, path)
        except OSError as error:
            raise UserError(f"cannot write to the run folder {workdir}: {error.strerror}") from error


def changed_data(workdir: Path, before: dict | None, now: dict, allow: Collection[str] = ()) -> dict[str, str]:
    """Compare the fingerprints of a checkpoint with those of today's data.

    Args:
        workdir: run folder, for the error.
        before: "train", "test" and "hand": `fingerprint.of_source` of the sets and `fingerprint.of_hand` of the hand
            model, as saved; None: an old run without fingerprints.
        now: the same of today.
        allow: "data" if they may differ.

    Returns:
        {"train", "test" or "hand": what differs}.

    Raises:
        UserError: something differs and is not allowed to.
    """
    if before is None:
        return {}
    found = {name: fingerprint.difference(before.get(name, []), now[name]) for name in now}
    changed = {name: difference for name, difference in found.items() if difference}
    if changed and "data" not in allow:
        listed = "; ".join(f"{_SETS[name]} has changed: {difference}" for name, difference in changed.items())
        raise UserError(
            f"{workdir}: contains a run on other data ({listed}). Choose another --workdir, or bring the old data "
            "back; --allow data goes on with the new data"
        )
    return changed


def _moved(key: str, old: Config, new: Config, meta: dict) -> bool:
    """Whether only the place of files differs, and the checkpoint has fingerprints of what is in them."""
    if key not in _PLACES or "fingerprints" not in meta:
        return False
    if key == "hand.mano_path":
        return bool(old.hand.mano_path and new.hand.mano_path)
    before, now = (getattr(config.data, key.removeprefix("data.")) for config in (old, new))
    return _without_paths(before) == _without_paths(now)


def _without_paths(sets: str | dict[str, float]) -> list[tuple[str, float]]:
    """(kind, weight) of each set in the order of a `Mix`."""
    weights = sets if isinstance(sets, dict) else {sets: 1.0}
    return [(_kind(name), weights[name]) for name in sorted(weights)]


def _kind(name: str) -> str:
    """NAME of NAME:PATH, or module:function of module:function:PATH."""
    parts = name.split(":", 2)
    return ":".join(parts[:2]) if len(parts) == 3 and parts[1].isidentifier() else parts[0]
