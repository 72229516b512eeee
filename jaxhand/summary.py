"""Cost of a model and of each of its modules: `jaxhand summary CONFIG [key=value …]`.

With `--devices 8x4` (8 hosts with 4 devices each): the memory of each device, what it sends in a step, and an estimate
of the time of a step. Several layouts are compared: `--devices 1,8,8x8`.
"""

import argparse
import dataclasses
import json
import re
import sys
import typing
from collections.abc import Iterable

from jaxhand import config as configs
from jaxhand.config import UserError
from jaxhand.io import console
from jaxhand.models import summary
from jaxhand.training import compiled, cost, runtime
from jaxhand.training.collectives import KINDS, Collective

ALWAYS = KINDS[:3]  # kinds of collective operations that are printed even where they send nothing
JAX_SHARE = 0.75  # share of a GPU's memory that JAX uses by default
LARGEST_SHARE = 0.95  # the CUDA libraries need the rest
NOTES = """\
These are estimates from the shapes of the arrays and from data sheets. They were not checked against a GPU.
Memory does not include what one operation needs at a time, such as the block that is recomputed with model.remat.
Sent: ring algorithms; gradients are sent once for each part of a batch, and in bfloat16 where the model computes in it.
What Muon sends for split matrices is not computed from shapes: see --compiled. Time: the first number is with
communication at the same time as the products, the second is with one after the other; waiting for data is not
included. Efficiency: the share of the step that is not communication. With few images per GPU, --mfu is lower. The time
that a GPU needs to start each operation is not included; for small networks it is larger than all the rest."""
COMPILED_NOTES = """\
Read from the program: the train step was compiled for CPU devices. As XLA does for GPUs, an all-reduce from which each
device keeps only its own part counts as a reduce-scatter, and bfloat16 sums count in 16 bits; the last row is what CPUs
send, without both. The time is computed from what was read from the program."""
UNKNOWN_NOTE = (
    "* At least: operations in loops whose length the program does not state count once; number of operations: {}."
)


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = summary.parser()
    parser.description = __doc__
    many = parser.add_argument_group("cost on many devices; nothing is run")
    layout = "number of devices, or HOSTSxDEVICES such as 8x4: 8 hosts with 4 devices each; several with commas"
    many.add_argument("--devices", type=_layouts, metavar="N", help=layout)
    many.add_argument("--gpu", choices=cost.GPUS, help="figures of the data sheet (default: h100)")
    figures = {
        "--device-memory": "memory of a device, GB",
        "--flops": "peak of a device for the config's dtype, TFLOP/s",
        "--hbm": "bandwidth of a device's memory, GB/s",
        "--nvlink": "bandwidth between devices of a host, one direction, GB/s",
        "--network": "bandwidth between hosts for each device, GB/s",
    }
    for name, what in figures.items():
        many.add_argument(name, type=_positive, metavar="X", help=f"{what} (default: that of --gpu)")
    many.add_argument("--mfu", type=_share, metavar="X", help="share of the peak that is reached (default: 0.4)")
    many.add_argument(
        "--compiled",
        action="store_true",
        help="also compile the train step for each layout, on CPU devices, and read from the program what it sends; "
        "for a ViT-H, a layout takes about 20 s on one core and 1.2 GB of memory",
    )
    arguments = parser.parse_intermixed_args(argv)
    if arguments.devices is None:
        for option in ("--gpu", *figures, "--mfu", "--compiled"):
            if getattr(arguments, option.removeprefix("--").replace("-", "_")):
                parser.error(f"{option} needs --devices")
        return summary.run(arguments)
    arguments.gpu, arguments.mfu = arguments.gpu or "h100", arguments.mfu or 0.4
    programs = {}
    try:
        config = configs.load(arguments.config, arguments.overrides)
        steps = {name: cost.of_step(config, *sizes) for name, sizes in arguments.devices.items()}
        if arguments.compiled:
            for name, step in steps.items():
                with console.patience(f"compiling the train step of --devices {name}"):
                    programs[name] = compiled.of_step(arguments.config, arguments.overrides, step.devices)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    gpu = _gpu(arguments, half=config.model.dtype == "bfloat16")
    found = [
        _numbers(name, step, gpu, arguments.mfu, programs.get(name), arguments.devices[name][1])
        for name, step in steps.items()
    ]
    if arguments.json:
        facts = {"checked_against_a_gpu": False, "gpu": dataclasses.asdict(gpu), "mfu": arguments.mfu}
        print(json.dumps(facts | {"layouts": found}, indent=2))
        return 0
    training, model = config.training, config.model
    print(f"{arguments.config}: {model.name}, images of {config.data.image_size} px, {model.dtype}")
    parts = f"batch of {training.batch_size} in parts: {training.accumulate}"
    share = f"{100 * max(step.split for step in steps.values()):.1f} % of the parameters are split"
    print(f"training.sharding={training.sharding}, {parts}, {share}\n")
    unknown = sum(each.times is None for program in programs.values() for each in program)
    notes = [NOTES, COMPILED_NOTES if programs else "", UNKNOWN_NOTE.format(unknown) if unknown else ""]
    print(f"{_table(found, arguments.gpu)}\n\n" + "\n".join(filter(None, notes)))
    return 0


def _layouts(text: str) -> dict[str, tuple[int, int]]:
    """ "8" is one host with 8 devices, "8x4" are 8 hosts with 4 devices each; layouts are separated by commas."""
    if not re.fullmatch(r"([1-9]\d*x)?[1-9]\d*(,([1-9]\d*x)?[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of devices, such as 8, or 8x4 for 8 hosts with 4")
    pairs = {name: name.rpartition("x") for name in text.split(",")}
    return {name: (int(hosts or 1), int(devices)) for name, (hosts, _, devices) in pairs.items()}


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _share(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is above 1, the whole peak")
    return value


def _gpu(arguments: argparse.Namespace, half: bool) -> cost.Gpu:
    """The GPU of the command line: a data sheet, with the figures that options replace."""
    peak = arguments.flops and arguments.flops * 1e3 * (1 if half else 2)  # a `Gpu` has the peak for bfloat16
    options = {"memory": arguments.device_memory, "flops": peak} | {
        name: getattr(arguments, name) for name in ("hbm", "nvlink", "network")
    }
    return dataclasses.replace(
        cost.GPUS[arguments.gpu], **{name: 1e9 * value for name, value in options.items() if value}
    )


def _numbers(
    name: str, step: cost.Step, gpu: cost.Gpu, mfu: float, program: list[Collective] | None, per_host: int
) -> dict:
    """All numbers of a layout; with `program`, the time is that of its collective operations."""
    sent, read = {"sent": _sent(step.traffic)}, {}
    if program is not None:
        traffic = compiled.traffic(program, per_host)
        on_cpus = sum(each.sent for each in compiled.traffic(program, per_host, on_cpu=True))
        unknown = sum(each.times is None for each in program)
        step = dataclasses.replace(step, traffic=traffic)
        read = {"compiled": {"sent": _sent(traffic), "sent_on_cpus": on_cpus, "in_unknown_loops": unknown}}
    times = cost.seconds(step, gpu, mfu)
    used = sum(step.memory.values()) / gpu.memory
    fits = "yes" if used <= JAX_SHARE else "barely" if used <= LARGEST_SHARE else "no"
    useful = times["compute"] + times["update"]
    return {
        "layout": name,
        "devices": step.devices,
        "memory": step.memory | {"total": sum(step.memory.values())},
        "fits": fits,
        **sent,
        **read,
        "flops": step.flops,
        "seconds": times,
        "images_per_second": [step.batch_size / times[end] for end in ("most", "least")],
        "efficiency": [useful / times[end] for end in ("most", "least")],
    }


def _sent(traffic: list[cost.Traffic]) -> dict[str, float]:
    """Bytes that a device sends in a step, by kind of operation."""
    return {kind: sum(each.sent for each in traffic if each.collective == kind) for kind in KINDS}


def _table(found: list[dict], gpu: str) -> str:
    """The numbers as text, one column per layout."""

    def gigabytes(values: Iterable[float]) -> list[str]:
        return [f"{value / 1e9:,.3f}" for value in values]

    def sent(each: list[dict[str, float]]) -> list[tuple[str, list[str]]]:
        kinds = [kind for kind in KINDS if kind in ALWAYS or any(one[kind] for one in each)]
        return [(f"  {kind}", gigabytes(one[kind] for one in each)) for kind in kinds]

    def milliseconds(name: str) -> list[str]:
        return [f"{1e3 * each['seconds'][name]:,.1f}" for each in found]

    def between(low: list[str], high: list[str]) -> list[str]:
        return [one if one == other else f"{one} to {other}" for one, other in zip(low, high)]

    first = found[0]
    rows = [("devices", [each["layout"] for each in found]), ("memory per device, GB", [])]
    rows += [(f"  {name}", gigabytes(each["memory"][name] for each in found)) for name in first["memory"]]
    rows += [("  fits", [each["fits"] for each in found]), ("sent per device and step, GB", [])]
    rows += sent([each["sent"] for each in found])
    if "compiled" in first:
        read = [each["compiled"] for each in found]
        rows += [("the same, read from the program" + "*" * any(each["in_unknown_loops"] for each in read), [])]
        rows += sent([each["sent"] for each in read])
        rows += [("  all, as CPUs do it", gigabytes(each["sent_on_cpus"] for each in read))]
    rows += [("step, TFLOP per device", [f"{each['flops'] / 1e12:,.3f}" for each in found])]
    rows += [(f"step on {gpu}, estimated, ms", between(milliseconds("least"), milliseconds("most")))]
    rows += [(f"  {name}", milliseconds(name)) for name in ("compute", "update", "communication")]
    for title, key, scale in (("images/s", "images_per_second", 1), ("efficiency, %", "efficiency", 100)):
        low, high = ([f"{scale * each[key][end]:,.0f}" for each in found] for end in (0, 1))
        rows += [(title, between(low, high))]
    width = max(len(name) for name, _ in rows)
    columns = [max(len(cells[i]) for _, cells in rows if cells) for i in range(len(found))]
    line = lambda cells: "".join(f"  {cell:>{size}}" for cell, size in zip(cells, columns))  # noqa: E731
    barely = f"\nfits: barely, if the environment has XLA_PYTHON_CLIENT_MEM_FRACTION={LARGEST_SHARE}"
    table = "\n".join((f"{name:<{width}}{line(cells)}").rstrip() for name, cells in rows)
    return table + (barely if any(each["fits"] == "barely" for each in found) else "")


if __name__ == "__main__":
    runtime.run(main)
