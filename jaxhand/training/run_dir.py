"""Make the folder of a run, or check that an existing folder belongs to the same config."""

import os
from pathlib import Path

import jax

from jaxhand import config as configs
from jaxhand.config import Config, UserError

FREE = ("data.threads", "data.cache", "training.test_freq", "training.metrics")  # keys without effect on the results


def prepare(workdir: Path, config: Config) -> None:
    """Make the folder and write `config.yaml`. If the folder already contains a run, first compare the configs.

    Args:
        workdir: run folder.
        config: the experiment.

    Raises:
        UserError: the folder contains checkpoints of a run with another config (the error lists the keys that differ),
            or it cannot be written to.
    """
    path = workdir / "config.yaml"
    if path.exists() and any((workdir / "checkpoints").glob("[0-9]*")):
        differing = [line for line in configs.differences(configs.load(path), config) if line.split(":")[0] not in FREE]
        if differing:
            raise UserError(
                f"{workdir}: contains a run with another config ({'; '.join(differing)}); "
                "choose another --workdir, or use the config of that run"
            )
    if jax.process_index() == 0:
        try:
            (workdir / "samples").mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".tmp")
            draft.write_text(configs.dump(config))
            os.replace(draft, path)
        except OSError as error:
            raise UserError(f"cannot write to the run folder {workdir}: {error.strerror}") from error
