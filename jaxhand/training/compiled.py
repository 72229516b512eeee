"""The collective operations of a config's train step, read from the program that XLA compiles for CPU devices.

The step is compiled in a process of its own, because the number of CPU devices must be set before JAX starts. No array
is allocated, and nothing is run.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from jaxhand import config as configs
from jaxhand.config import UserError
from jaxhand.training import collectives, cost, sharding
from jaxhand.training.collectives import Collective
from jaxhand.training.step import Trainer

LIMIT_S = 1800.0  # time to compile a step
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # the machine code is not used
_PROGRAM = f"from {__name__} import print_hlo; import sys; print_hlo(*sys.argv[1:])"


def of_step(config: str, overrides: Sequence[str], devices: int) -> list[Collective]:
    """Compile a train step for so many CPU devices, and read its collective operations.

    Args:
        config: name or path of the experiment.
        overrides: `key=value` texts.
        devices: number of devices.

    Raises:
        UserError: the process failed, took longer than `LIMIT_S`, or its program cannot be read.
    """
    if devices == 1:
        return []
    flags = f"{_QUICK} --xla_force_host_platform_device_count={devices}"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", _PROGRAM, str(config), *overrides]
    failed = f"the train step was not compiled for {devices} devices"
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"{failed} within {LIMIT_S:g} s; leave out --compiled") from None
    if done.returncode < 0:
        raise UserError(f"{failed}: the process got signal {-done.returncode}, as when memory runs out")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason was printed"])[-1]
        raise UserError(f"{failed}: {reason[:300]}")
    try:
        return collectives.read(done.stdout)
    except ValueError as error:
        raise UserError(f"the program for {devices} devices cannot be read: {error}") from None


def print_hlo(config: str, *overrides: str) -> None:
    """Print the HLO text of a config's train step, compiled for all devices of this process."""
    experiment = configs.load(config, overrides)
    trainer = Trainer(experiment, sharding.make_mesh(experiment.training), total_steps=2)
    print(trainer.prepare().result().as_text())


def traffic(found: Sequence[Collective], per_host: int, on_cpu: bool = False) -> list[cost.Traffic]:
    """What the collective operations send in a step, with ring algorithms.

    Args:
        found: what `of_step` returns. An operation that is done an unknown number of times counts once.
        per_host: number of devices of each host.
        on_cpu: count what the program for CPUs sends. Otherwise, what a program for GPUs sends instead: XLA makes a
            reduce-scatter of an all-reduce from which each device uses only its own part, and it adds bfloat16 numbers
            in 16 bits.
    """
    return [_traffic(each, per_host, on_cpu) for each in found]


def _traffic(found: Collective, per_host: int, on_cpu: bool) -> cost.Traffic:
    hosts = [[device // per_host for device in group] for group in found.groups]
    together = min(max(map(group.count, group)) for group in hosts)  # of the group that is spread over most hosts
    kind = "reduce-scatter" if found.sliced and not on_cpu else found.kind
    size = len(found.groups[0])
    whole = found.size * (size if kind == "all-gather" else 1) / (2 if found.rounded and not on_cpu else 1)
    return cost.ring(kind, whole * (found.times or 1), size, together)
