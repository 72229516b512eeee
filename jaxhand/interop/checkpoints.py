"""Checkpoints of HaMeR, WiLoR and ViTPose → configs and arrays of our models; one tensor is in memory at a time."""

import collections
import dataclasses
import functools
import math
import typing
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import yaml
from flax import nnx

from jaxhand import config as configs
from jaxhand import models
from jaxhand.config import Config, UserError
from jaxhand.interop import names, safetensors, torch_file
from jaxhand.interop.tensor import Tensor
from jaxhand.models.hamer import CAMERA_PX

VIT_HEADS = {384: 12, 768: 12, 1024: 16, 1280: 16}  # attention heads of ViTPose by width; shapes do not contain them
DECODER_HEAD_WIDTH = 64  # of HaMeR's decoder
TREES = ("params", "non_trainable")
ALIGNMENT = 64  # bytes: JAX on a CPU uses arrays with this alignment without a copy


@dataclasses.dataclass(frozen=True)
class Converted:
    """A model's arrays, float32 on the host, and for every tensor of the file whether it is used."""

    config: Config
    params: dict
    non_trainable: dict  # batch statistics, the mean hand
    used: dict[str, str]  # key in the file → path in the model
    unused: dict[str, str]  # key in the file → reason
    partial: bool  # only a backbone

    def summary(self) -> list[str]:
        """Lines on the model, on used tensors, and one per reason with the number of unused tensors."""
        vit = self.config.model.vit
        count = sum(leaf.size for leaf in jax.tree.leaves((self.params, self.non_trainable)))
        name = "backbone" if self.partial else self.config.model.name
        size = f"{name}, {vit.depth} blocks, {vit.width} wide with {vit.heads} heads, {count / 1e6:.1f} M numbers"
        reasons = collections.Counter(self.unused.values())
        unused = [f"{count} not used: {reason}" for reason, count in reasons.items()]
        return [size, f"{len(self.used)} tensors used, none is missing", *unused]

    def report(self) -> list[str]:
        """One line for every key of the file."""
        used = [f"  {key} -> {path}" for key, path in self.used.items()]
        unused = [f"  {key}: {reason}" for key, reason in self.unused.items()]
        return [f"used: {len(used)}", *used, f"unused: {len(unused)}", *unused, "missing: 0"]


def convert(
    kind: str, path: str | Path, *, model_config: str | Path | None = None, overrides: Sequence[str] = ()
) -> Converted:
    """Convert a checkpoint. Sizes come from the tensors' shapes, numbers of attention heads from the released models.

    Args:
        kind: "hamer", "wilor", or "vitpose": only the backbone, also from files of the other two.
        path: a file of torch.save, or .safetensors.
        model_config: HaMeR's or WiLoR's model_config.yaml, if the decoder has another number of heads.
        overrides: `key.sub=value` of our config, such as model.vit.heads=16; they take precedence.

    Returns:
        The arrays and a report on every tensor.

    Raises:
        UserError: the file cannot be read, a tensor is missing or does not have the model's shape (both are named), or
            a number in it is not finite.
    """
    path = Path(path)
    tensors, unused = _tensors(kind, path)
    config = configs.load(None, [*_sizes(kind, tensors, path, overrides), *_decoder(model_config), *overrides])
    wanted = _abstract(config)
    if kind == "vitpose":
        wanted = {name: leaves for name, leaves in wanted.items() if names.is_mapped(kind, name[1])}
    plan = {name: names.source_of(kind, name[1], leaf.shape) for name, leaf in wanted.items()}
    _check(path, kind, tensors, plan, wanted)
    arrays = {name: _read(path, tensors, source, wanted[name].shape) for name, source in plan.items()}
    paths = {key: name for (_, name), source in plan.items() for key in source.keys}
    used = {key: paths[key] for key in tensors if key in paths}
    unused |= {key: names.why_unused(key) for key in tensors if key not in used}
    params, non_trainable = (
        _nested({name[1]: array for name, array in arrays.items() if name[0] == tree}) for tree in TREES
    )
    return Converted(config, params, non_trainable, used, unused, partial=kind == "vitpose")


def _tensors(kind: str, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights of a checkpoint by name, and its other contents with the reason why they are not used."""
    saved: typing.Any = safetensors.read(path) if path.suffix == ".safetensors" else torch_file.read(path)
    unused = {}
    if isinstance(saved, dict):
        inner = next((name for name in ("state_dict", "model") if isinstance(saved.get(name), dict)), None)
        if inner is not None:
            unused = {str(name): "not a weight of the model" for name in saved if name != inner}
            saved = saved[inner]
        saved = {str(key).removeprefix("module."): value for key, value in saved.items() if isinstance(value, Tensor)}
    if not isinstance(saved, dict) or not saved:
        raise UserError(f"{path}: contains no weights: expected tensors by name, or under state_dict")
    if kind == "vitpose" and "pos_embed" in saved:
        saved = {f"backbone.{key}": value for key, value in saved.items()}
    return saved, unused


def _sizes(kind: str, tensors: dict[str, Tensor], path: Path, overrides: Sequence[str]) -> list[str]:
    """The sizes of the model, read from the shapes of the tensors, as overrides of the config."""

    def shape(key: str, axes: int) -> tuple[int, ...]:
        if key not in tensors:
            found = ascii(list(tensors)[:3])[:150]
            raise UserError(f"{path}: has no {key}, so it is not a checkpoint of {kind}; it has {found}, …")
        if len(tensors[key].shape) != axes:
            raise UserError(f"{path}: {key} has shape {tensors[key].shape}, but {kind} has {axes} axes there")
        return tensors[key].shape

    width, _, patch, _ = shape("backbone.patch_embed.proj.weight", 4)
    rows = math.isqrt((shape("backbone.pos_embed", 3)[1] - 1) * 4 // 3)  # the grid is three quarters as wide as high
    vit = {
        "width": width,
        "depth": names.count_layers(tensors, "backbone.blocks.{}.norm1.weight"),
        "mlp_ratio": shape("backbone.blocks.0.mlp.fc1.weight", 2)[0] / width,
        "patch": patch,
    }
    given = {override.partition("=")[0] for override in overrides}
    if width in VIT_HEADS:
        vit["heads"] = VIT_HEADS[width]
    elif "model.vit.heads" not in given:
        raise UserError(f"{path}: unknown number of attention heads for width {width}: set model.vit.heads=NUMBER")
    sizes = [f"model.vit.{key}={value}" for key, value in vit.items()]
    if kind == "hamer":
        decoder = "mano_head.transformer.transformer.layers"
        inner, width = shape(f"{decoder}.0.1.fn.to_q.weight", 2)
        head = {
            "width": width,
            "depth": names.count_layers(tensors, decoder + ".{}.1.fn.to_q.weight"),
            "head_width": DECODER_HEAD_WIDTH,
            "heads": max(inner // DECODER_HEAD_WIDTH, 1),
            "mlp": shape(f"{decoder}.0.2.fn.net.0.weight", 2)[0],
        }
        sizes += [f"model.hamer.{key}={value}" for key, value in head.items()]
    crops = [f"data.image_size={rows * patch}", "data.crop_rule=hamer", "data.crop_scale=2.0"]
    return [f"model.name={'hamer' if kind == 'vitpose' else kind}", *sizes, *crops]


def _decoder(path: str | Path | None) -> list[str]:
    """Heads of the decoder from a model_config.yaml of HaMeR or WiLoR, as overrides; its camera is checked."""
    if path is None:
        return []
    try:
        tree = yaml.safe_load(Path(path).read_text())
        focal, size = tree["EXTRA"]["FOCAL_LENGTH"], tree["MODEL"]["IMAGE_SIZE"]
        decoder = tree["MODEL"]["MANO_HEAD"].get("TRANSFORMER_DECODER") or {}
        found = {"heads": decoder.get("heads"), "head_width": decoder.get("dim_head")}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{path}: not a model_config.yaml of HaMeR or WiLoR ({' '.join(str(error).split())})") from None
    if focal * 256 != CAMERA_PX * size:
        supported = f"{CAMERA_PX:.0f} for crops of 256 px"
        raise UserError(f"{path}: EXTRA.FOCAL_LENGTH is {focal} for crops of {size} px; only {supported} is supported")
    return [f"model.hamer.{key}={value}" for key, value in found.items() if value is not None]


def _abstract(config: Config) -> dict:
    """Shape and dtype of a model's arrays: {(tree, path): …}, such as ("params", "backbone/positions")."""
    _, params, non_trainable = nnx.split(nnx.eval_shape(functools.partial(models.build, config)), nnx.Param, ...)
    flat = {}
    for tree, state in zip(TREES, (params, non_trainable)):
        for path, leaf in jax.tree.leaves_with_path(nnx.to_pure_dict(state)):
            flat[tree, jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    return flat


def _check(path: Path, kind: str, tensors: dict, plan: dict, wanted: dict) -> None:
    """Check, before any tensor is read, that all tensors of a model are in the file and have the right shape."""
    missing = [key for source in plan.values() for key in source.keys if key not in tensors]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"{path}: {', '.join(missing[:3])}{more} missing, which {kind} needs")
    for name, source in plan.items():
        shape = wanted[name].shape[source.stacked :]
        for key in source.keys:
            try:
                fits = source.transform(np.broadcast_to(np.float32(0), tensors[key].shape)).shape == shape
            except (ValueError, IndexError):  # another number of axes
                fits = False
            if not fits:
                raise UserError(f"{path}: {key} {tensors[key].shape} does not fit {name[1]} {shape} of the model")


def _read(path: Path, tensors: dict[str, Tensor], source: names.Source, shape: tuple[int, ...]) -> np.ndarray:
    """An array of our model, float32, from its tensors."""
    array = _empty(shape)
    for row, key in enumerate(source.keys):
        tensor = tensors[key].read()
        if not np.isfinite(tensor).all():
            raise UserError(f"{path}: {key} is not finite: the file is damaged, or its training diverged")
        array[row if source.stacked else ...] = source.transform(tensor)
    return array


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised float32 array, aligned to `ALIGNMENT`."""
    raw = np.empty(4 * math.prod(shape) + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)


def _nested(flat: dict[str, np.ndarray]) -> dict:
    """{"a/0/b": x} → {"a": {0: {"b": x}}}: nnx writes lists as dicts of integers."""
    tree = {}
    for path, array in flat.items():
        *parents, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = array
    return tree
