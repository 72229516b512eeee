"""Train a network: `jaxhand train [--config FILE] [--workdir DIR] [key=value …]`.

If the folder already holds a run, training continues from its latest checkpoint.
"""

import argparse
from pathlib import Path

from jaxhand import config as configs
from jaxhand.config import UserError
from jaxhand.io import console
from jaxhand.training import peers, runtime


def main() -> int:
    """Parse the command line and train; returns the exit code."""
    parser = argparse.ArgumentParser(prog="jaxhand train", description="Train a network.")
    given = "YAML file, or the name of one in configs/ (default: quickstart)"
    parser.add_argument("--config", type=console.path, default="quickstart", help=given)
    parser.add_argument("--workdir", type=console.output_path, help="run folder (default: runs/<name of the config>)")
    allow = "continue a run although this differs from its latest checkpoint; can be given twice"
    parser.add_argument("--allow", action="append", default=[], choices=("config", "data"), help=allow)
    parser.add_argument("--coordinator", help="address host:port of the first process, for runs over many processes")
    parser.add_argument("--num-processes", type=int, help="how many processes train together")
    parser.add_argument("--process-id", type=int, help="number of this process, from 0")
    given_up = "seconds without a sign of life, or without a step while others wait, after which a process is given up"
    parser.add_argument("--peer-timeout", type=float, default=peers.PEER_TIMEOUT_S, help=f"{given_up} (default: 20)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as training.num_epochs=5")
    arguments = parser.parse_intermixed_args()
    config = configs.load(arguments.config, arguments.overrides)

    from jaxhand import data, models  # imported here, so that --help and config errors need no JAX
    from jaxhand.training.loop import train

    runtime.use_compilation_cache()
    runtime.connect(arguments.coordinator, arguments.num_processes, arguments.process_id, arguments.peer_timeout)
    # Before a run folder is made and hands are rendered
    models.check(config)
    for name in (config.data.train, config.data.test):
        data.check(name)
    start = config.training.init_from
    if start and not console.path(start).is_dir():
        raise UserError(f"training.init_from: no run folder at {start}")
    return train(config, arguments.workdir or Path("runs") / arguments.config.stem, arguments.allow)


if __name__ == "__main__":
    runtime.run(main)
