"""Evaluate a complete data set on all devices, during and after training; every sample is used exactly once."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax

from jaxhand.config import UserError
from jaxhand.data import pipeline
from jaxhand.data.batch import Batch
from jaxhand.data.record import Source
from jaxhand.metrics import epoch
from jaxhand.training import pytree_checks
from jaxhand.training.checkpoint import Restored, restore_best
from jaxhand.training.runtime import without_waiting_for_threads
from jaxhand.training.sharding import local_rows, make_mesh, replicated, to_global
from jaxhand.training.step import EvalModel

SAMPLE_KEYS = ("image", "keypoints_2d", "joint_valid_2d")  # arrays of a batch that are drawn in the sample image


def load_best(workdir: str | Path, *, metrics: Sequence[str] | None = None) -> tuple[EvalModel, Restored]:
    """Load the model of a run: its compiled eval step, and its best parameters on all devices.

    Args:
        workdir: run folder.
        metrics: names of additional metrics, as in `training.metrics`; None: the metrics of the run's config.

    Raises:
        UserError: the folder contains no run, the parameters do not fit the model of the config, or a metric is
            unknown.
    """
    device_mesh = make_mesh()
    restored = restore_best(workdir, sharding=replicated(device_mesh))
    config = restored.config
    if metrics is not None:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, metrics=tuple(metrics)))
    eval_model = EvalModel(config, device_mesh)
    difference = pytree_checks.mismatch("params", restored.params, eval_model.abstract_model()["params"])
    if difference:
        raise UserError(f"the best checkpoint of {workdir} does not fit the model of its config: {difference}")
    return eval_model, restored


def batches_of(source: Source, eval_model: EvalModel) -> Iterable[Batch]:
    """Make the host batches of this process from a source. Their size is a multiple of the number of devices."""
    config, devices = eval_model.config, jax.device_count()
    size = -(-config.training.batch_size // devices) * devices
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    return pipeline.eval_batches(source, config, size, hand_model=eval_model.hand_model, **processes)


def evaluate_dataset(
    eval_model: EvalModel,
    params: dict,
    batch_stats: dict,
    batches: Iterable[Batch],
    *,
    samples: int = 0,
    collect: Callable[[Batch, dict], None] | None = None,
) -> tuple[dict, dict]:
    """Evaluate the parameters of a model on host batches (see `batches_of`).

    Args:
        eval_model: the model.
        params: the parameters of the model, on the devices.
        batch_stats: everything else in the model, such as batch statistics, on the devices.
        batches: all batches of the data set.
        samples: number of images of the first batch that are returned with their joints.
        collect: called with every host batch and its predictions, both for the rows of this process; None: no call.

    Returns:
        Two dicts. The first contains `test_loss`, `losses` (every term), each measured metric of `eval_model.metrics`
        by its name, and the numbers of hands `count`, `nonfinite` and `invalid`. The second contains `image`,
        `keypoints_2d`, `joint_valid_2d` and `predicted_2d` of the returned images.

    Raises:
        UserError: a loss term or a metric cannot be computed.
    """
    sums, shown = [], {}
    with without_waiting_for_threads():
        for batch in batches:
            on_device = to_global(batch, eval_model.device_mesh)
            of_batch, predictions = eval_model.eval_step(params, batch_stats, on_device)
            sums.append(of_batch)
            if samples and not shown:
                few = slice(min(samples, int(batch["valid"].sum())))
                shown = {key: batch[key][few] for key in SAMPLE_KEYS}
                shown["predicted_2d"] = local_rows(predictions["keypoints_2d"])[few]
            if collect is not None:
                collect(batch, {key: local_rows(value) for key, value in predictions.items()})
    sums = jax.tree.map(lambda *values: math.fsum(map(float, values)), *sums)
    losses = {name: value / max(sums["rows"], 1) for name, value in sums["losses"].items()}
    counts = {name: int(sums["metrics"][0][name]) for name in epoch.COUNTS}  # the joint metrics come first
    metrics = epoch.means(eval_model.metrics, sums["metrics"])
    return {"test_loss": losses["loss"], "losses": losses, **metrics, **counts}, shown
