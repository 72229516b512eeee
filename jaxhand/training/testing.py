"""The test of an epoch: a whole set through the test step on all devices, every sample exactly once."""

import jax
import numpy as np

from jaxhand.metrics import epoch_means
from jaxhand.training.sharding import local_rows, to_global
from jaxhand.training.step import Tester


def run_test(tester: Tester, state: dict, batches, *, samples: int = 0, collect=None) -> tuple[dict, dict]:
    """Test `params` and `rest` of a state on host batches (`data.pipeline.test_batches`).

    Args:
        samples: how many images of the first batch to return with their joints.
        collect: called with every host batch and its predictions (of this process's rows), where given.

    Returns:
        `test_loss`, `losses` (every term), `mpjpe`, `pa_mpjpe`, `avg_metric` in mm, `count`, `nonfinite`, `invalid`;
        and `image`, `keypoints_2d`, `joint_valid`, `predicted_2d` of the samples.
    """
    sums, shown = None, {}
    for batch in batches:
        on_device = to_global({key: value for key, value in batch.items() if key != "index"}, tester.mesh)
        of_batch, predictions = tester.test_step(state["params"], state["rest"], on_device)
        sums = of_batch if sums is None else jax.tree.map(lambda a, b: a + b, sums, of_batch)
        if samples and not shown:
            few = slice(min(samples, int(batch["valid"].sum())))
            shown = {key: batch[key][few] for key in ("image", "keypoints_2d", "joint_valid")}
            shown["predicted_2d"] = local_rows(predictions["keypoints_2d"])[few]
        if collect is not None:
            collect(batch, {key: local_rows(value) for key, value in predictions.items()})
    sums = jax.tree.map(float, sums)
    names = [name for name in sums if name in ("loss", *vars(tester.config.loss))]
    losses = {name: sums[name] / max(sums["rows"], 1) for name in names}
    counts = {name: int(sums[name]) for name in ("count", "nonfinite", "invalid")}
    return {"test_loss": losses["loss"], "losses": losses, **epoch_means(sums), **counts}, shown
