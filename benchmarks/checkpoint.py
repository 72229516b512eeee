"""How long training waits while the checkpoint of an epoch is saved: `python -m benchmarks.checkpoint`."""

import statistics
import tempfile
import time

import jax

from jaxhand import config as configs
from jaxhand.training.checkpoint import Checkpoints
from jaxhand.training.sharding import make_mesh
from jaxhand.training.step import Trainer

SAVES, SECONDS_BETWEEN = 10, 2.0


def main() -> None:
    """Save the quickstart's state several times, as after each epoch."""
    config = configs.load("quickstart")
    state = Trainer(config, make_mesh(), total_steps=1000).init()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    items = {"params": state["params"], "rest": state["batch_stats"], "optimizer": state["optimizer"]}
    blocked = []
    with tempfile.TemporaryDirectory() as workdir:
        checkpoints = Checkpoints(workdir, keep_every_steps=0)
        for step in range(1, SAVES + 1):
            begin = time.perf_counter()
            meta = {"epoch": step, "config": configs.to_dict(config)}
            checkpoints.save(step, **items, data={"next_index": step}, meta=meta, avg_metric=10.0 - 0.1 * step)
            blocked.append(time.perf_counter() - begin)
            time.sleep(SECONDS_BETWEEN)
        checkpoints.close()
    print(
        f"{size:.1f} MB; a save blocks {statistics.median(blocked):.2f} s (median of {SAVES}), "
        f"at most {max(blocked):.2f} s"
    )


if __name__ == "__main__":
    main()
