"""A whole set through the test step on all devices, every sample exactly once: in training and after it."""

import math

import jax

from jaxhand.config import UserError
from jaxhand.data import pipeline
from jaxhand.metrics import epoch_means
from jaxhand.training import trees
from jaxhand.training.checkpoint import Restored, restore_best
from jaxhand.training.sharding import local_rows, make_mesh, replicated, to_global
from jaxhand.training.step import Tester


def load_best(workdir) -> tuple[Tester, Restored]:
    """The best parameters of a run on all devices, and the compiled test step of their model; no optimizer is built.

    Raises:
        UserError: the folder holds no run, or its parameters do not fit the model of its config.
    """
    mesh = make_mesh()
    restored = restore_best(workdir, sharding=replicated(mesh))
    tester = Tester(restored.config, mesh)
    difference = trees.mismatch("params", restored.params, tester.abstract_model()["params"])
    if difference:
        raise UserError(f"the best checkpoint of {workdir} does not fit its model: {difference}")
    return tester, restored


def batches_of(source, tester: Tester):
    """A source as this process's test batches, of a size that all devices can share."""
    config, devices = tester.config, jax.device_count()
    size = -(-config.training.batch_size // devices) * devices
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    return pipeline.eval_batches(source, config, size, hand_model=tester.hand_model, **processes)


def run_test(tester: Tester, params: dict, rest: dict, batches, *, samples: int = 0, collect=None) -> tuple[dict, dict]:
    """Test parameters on host batches (`batches_of`).

    Args:
        samples: how many images of the first batch to return with their joints.
        collect: called with every host batch and its predictions (of this process's rows), where given.

    Returns:
        `test_loss`, `losses` (every term), `mpjpe`, `pa_mpjpe`, `avg_metric` in mm, `count`, `nonfinite`, `invalid`, and
        where meshes were compared `MESH_METRICS`;
        and `image`, `keypoints_2d`, `joint_valid_2d`, `predicted_2d` of the samples.
    """
    sums, shown = [], {}
    for batch in batches:
        on_device = to_global({key: value for key, value in batch.items() if key != "index"}, tester.mesh)
        of_batch, predictions = tester.test_step(params, rest, on_device)
        sums.append(of_batch)
        if samples and not shown:
            few = slice(min(samples, int(batch["valid"].sum())))
            shown = {key: batch[key][few] for key in ("image", "keypoints_2d", "joint_valid_2d")}
            shown["predicted_2d"] = local_rows(predictions["keypoints_2d"])[few]
        if collect is not None:
            collect(batch, {key: local_rows(value) for key, value in predictions.items()})
    sums = jax.tree.map(lambda *values: math.fsum(map(float, values)), *sums)
    losses = {name: sums[name] / max(sums["rows"], 1) for name in ("loss", *tester.loss_terms)}
    counts = {name: int(sums[name]) for name in ("count", "nonfinite", "invalid")}
    return {"test_loss": losses["loss"], "losses": losses, **epoch_means(sums), **counts}, shown


def mesh_line(results: dict) -> str:
    """How `run_test`'s meshes are shown; empty where none was compared."""
    if "mpvpe" not in results:
        return ""
    scores = f"F@5: {results['f_5']:.3f}, F@15: {results['f_15']:.3f}"
    return f"MPVPE: {results['mpvpe']:.3f} mm, PA-MPVPE: {results['pa_mpvpe']:.3f} mm, {scores}"
