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

from jaxhand import config as configs
from jaxhand.config import UserError
from jaxhand.models import summary
from jaxhand.training import cost, runtime

JAX_SHARE = 0.75  # share of a GPU's memory that JAX uses by default
LARGEST_SHARE = 0.95  # the CUDA libraries need the rest
NOTES = """\
These are estimates from the shapes of the arrays and from data sheets. They were not checked against a GPU.
Memory does not include what one operation needs at a time, such as the block that is recomputed with model.remat.
Sent: ring algorithms; all arrays are float32; gradients are sent once for each part of a batch. Time: the first number
is with communication at the same time as the products, the second is with one after the other; waiting for data is not
included. Efficiency: the share of the step that is not communication. With few images per GPU, --mfu is lower. The time
that a GPU needs to start each operation is not included; for small networks it is larger than all the rest."""


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = summary.parser()
    parser.description = __doc__
    many = parser.add_argument_group("cost on many devices; nothing is run")
    layout = "number of devices, or HOSTSxDEVICES such as 8x4: 8 hosts with 4 devices each; several with commas"
    many.add_argument("--devices", type=_layouts, metavar="N", help=layout)
    many.add_argument("--gpu", choices=cost.GPUS, default="h100", help="figures of the data sheet (default: h100)")
    for name, what in {
        "--device-memory": "memory of a device, GB",
        "--flops": "peak of a device for the config's dtype, TFLOP/s",
        "--hbm": "bandwidth of a device's memory, GB/s",
        "--nvlink": "bandwidth between devices of a host, one direction, GB/s",
        "--network": "bandwidth between hosts for each device, GB/s",
    }.items():
        many.add_argument(name, type=_positive, metavar="X", help=f"{what} (default: that of --gpu)")
    many.add_argument(
        "--mfu", type=_positive, metavar="X", default=0.4, help="share of the peak that is reached (default: 0.4)"
    )
    arguments = parser.parse_intermixed_args(argv)
    if arguments.devices is None:
        return summary.run(arguments)
    try:
        config = configs.load(arguments.config, arguments.overrides)
        steps = {name: cost.of_step(config, *sizes) for name, sizes in arguments.devices.items()}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    gpu = _gpu(arguments, half=config.model.dtype == "bfloat16")
    found = [_numbers(name, step, gpu, arguments.mfu) for name, step in steps.items()]
    if arguments.json:
        facts = {"checked_against_a_gpu": False, "gpu": dataclasses.asdict(gpu), "mfu": arguments.mfu}
        print(json.dumps(facts | {"layouts": found}, indent=2))
        return 0
    training, model = config.training, config.model
    print(f"{arguments.config}: {model.name}, images of {config.data.image_size} px, {model.dtype}")
    parts = f"batch of {training.batch_size} in parts: {training.accumulate}"
    share = f"{100 * max(step.split for step in steps.values()):.1f} % of the parameters are split"
    print(f"training.sharding={training.sharding}, {parts}, {share}\n")
    print(f"{_table(found, arguments.gpu)}\n\n{NOTES}")
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


def _gpu(arguments: argparse.Namespace, half: bool) -> cost.Gpu:
    """The GPU of the command line: a data sheet, with the figures that options replace."""
    peak = arguments.flops and arguments.flops * 1e3 * (1 if half else 2)  # a `Gpu` has the peak for bfloat16
    options = {"memory": arguments.device_memory, "flops": peak} | {
        name: getattr(arguments, name) for name in ("hbm", "nvlink", "network")
    }
    return dataclasses.replace(
        cost.GPUS[arguments.gpu], **{name: 1e9 * value for name, value in options.items() if value}
    )


def _numbers(name: str, step: cost.Step, gpu: cost.Gpu, mfu: float) -> dict:
    """All numbers of a layout."""
    times = cost.seconds(step, gpu, mfu)
    used = sum(step.memory.values()) / gpu.memory
    fits = "yes" if used <= JAX_SHARE else "barely" if used <= LARGEST_SHARE else "no"
    sent = {kind: 0.0 for kind in ("all-reduce", "all-gather", "reduce-scatter")}
    for each in step.traffic:
        sent[each.collective] += each.sent
    useful = times["compute"] + times["update"]
    return {
        "layout": name,
        "devices": step.devices,
        "memory": step.memory | {"total": sum(step.memory.values())},
        "fits": fits,
        "sent": sent,
        "flops": step.flops,
        "seconds": times,
        "images_per_second": [step.batch_size / times[end] for end in ("most", "least")],
        "efficiency": [useful / times[end] for end in ("most", "least")],
    }


def _table(found: list[dict], gpu: str) -> str:
    """The numbers as text, one column per layout."""

    def gigabytes(kind: str, name: str) -> list[str]:
        return [f"{each[kind][name] / 1e9:,.3f}" for each in found]

    def milliseconds(name: str) -> list[str]:
        return [f"{1e3 * each['seconds'][name]:,.1f}" for each in found]

    def between(low: list[str], high: list[str]) -> list[str]:
        return [one if one == other else f"{one} to {other}" for one, other in zip(low, high)]

    first = found[0]
    rows = [("devices", [each["layout"] for each in found]), ("memory per device, GB", [])]
    rows += [(f"  {name}", gigabytes("memory", name)) for name in first["memory"]]
    rows += [("  fits", [each["fits"] for each in found]), ("sent per device and step, GB", [])]
    rows += [(f"  {name}", gigabytes("sent", name)) for name in first["sent"]]
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
