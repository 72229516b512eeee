"""Saving and restoring checkpoints: how long training waits for a save, and how long the files and a restore take.

`python -m benchmarks.checkpoint [CONFIG] [key=value …] [--devices N] [--saves N]`: by default the quickstart's state.
`--devices` forces CPU devices, over which `training.sharding=fsdp` splits the state.
"""

import argparse
import os
import statistics
import tempfile
import time

SECONDS_BETWEEN = 2.0


def main() -> None:
    """Save a state several times, as after each epoch, and restore it once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default="quickstart")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--saves", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.devices > 1:
        forced = f"--xla_force_host_platform_device_count={arguments.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {forced}"

    import jax

    from jaxhand import config as configs
    from jaxhand.training.checkpoint import Checkpoints
    from jaxhand.training.loop import ITEMS
    from jaxhand.training.sharding import bytes_per_device, make_mesh
    from jaxhand.training.step import Trainer

    config = configs.load(arguments.config, arguments.overrides)
    trainer = Trainer(config, make_mesh(config.training), total_steps=1000)
    state, abstract = trainer.init(), trainer.abstract_state
    trees = {item: state[key] for item, key in ITEMS.items()}
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(trees)) / 1e6
    blocked, finished = [], []
    with tempfile.TemporaryDirectory() as workdir:
        checkpoints = Checkpoints(workdir, keep_every_steps=0)
        for step in range(1, arguments.saves + 1):
            begin = time.perf_counter()
            meta = {"epoch": step, "config": configs.to_dict(config)}
            checkpoints.save(step, **trees, data={"next_index": step}, meta=meta, avg_metric=10.0 - 0.1 * step)
            blocked.append(time.perf_counter() - begin)
            checkpoints.wait()
            finished.append(time.perf_counter() - begin)
            time.sleep(SECONDS_BETWEEN)
        begin = time.perf_counter()
        restored = checkpoints.restore_latest({item: abstract[key] for item, key in ITEMS.items()})
        assert restored is not None
        jax.block_until_ready((restored.params, restored.optimizer))
        read = time.perf_counter() - begin
        checkpoints.close()
    print(
        f"{size:.1f} MB, {bytes_per_device(trees) / 1e6:.1f} on each of {arguments.devices} devices; a save blocks "
        f"{statistics.median(blocked):.2f} s (median of {arguments.saves}), at most {max(blocked):.2f} s, and is "
        f"complete and checked after {statistics.median(finished):.2f} s; restored in {read:.2f} s"
    )


if __name__ == "__main__":
    main()
