"""Names and shapes that our models' parameters have in checkpoints of HaMeR, WiLoR and ViTPose."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from jaxhand.models.refine import SCALES

LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
Transform = Callable[[np.ndarray], np.ndarray]  # from the axes of a checkpoint's tensor to those of our array


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _linear(x: np.ndarray) -> np.ndarray:
    """Kernel of a linear layer: (out, in) → (in, out)."""
    return x.T


def _conv(x: np.ndarray) -> np.ndarray:
    """Kernel of a convolution with stride = kernel size: (out, in, h, w) → matrix (h * w * in, out)."""
    return x.transpose(2, 3, 1, 0).reshape(-1, len(x))


def _deconv(x: np.ndarray) -> np.ndarray:
    """Kernel of a transposed convolution: (in, out, h, w) → (h, w, in, out), rotated by 180°."""
    return x.transpose(2, 3, 0, 1)[::-1, ::-1]


def _one_output(x: np.ndarray) -> np.ndarray:
    """A layer with one output: weight (1, in) → (in,), bias (1,) → ()."""
    return x[0]


def _positions(x: np.ndarray) -> np.ndarray:
    """Position embedding: (1, 1 + T, width) → (T, width). The class token's row is added to all other rows."""
    return x[0, 1:] + x[0, :1]


# Our path → (checkpoint key, transform of the weight). The path belongs to a layer or to a single parameter. {} in a
# key is the layer index: one array of our model contains the parameters of all layers.
Table = dict[str, tuple[str, Transform]]
BACKBONE: Table = {
    "positions": ("pos_embed", _positions),
    "patch_embed/proj": ("patch_embed.proj", _conv),
    **{
        f"encoder/blocks/{name}": (f"blocks.{{}}.{name.replace('/', '.')}", transform)
        for names, transform in (
            (("norm1", "norm2"), _same),
            (("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2"), _linear),
        )
        for name in names
    },
    "encoder/norm": ("last_norm", _same),
}
_MEAN_HAND = {name: (name, _same) for name in ("init_hand_pose", "init_betas", "init_cam")}
_OUTPUT_LAYERS = {name: (name, _linear) for name in ("decpose", "decshape", "deccam")}
_DECODER = {
    "to_token_embedding": ("to_token_embedding", _linear),
    "pos_embedding": ("pos_embedding", _same),
    **{
        f"layers/{path}": (f"transformer.layers.{{}}.{key}", _same if path.endswith("norm") else _linear)
        for path, key in {
            "self_attention/norm": "0.norm",
            "self_attention/to_qkv": "0.fn.to_qkv",
            "self_attention/to_out": "0.fn.to_out.0",
            "cross_attention/norm": "1.norm",
            "cross_attention/to_q": "1.fn.to_q",
            "cross_attention/to_kv": "1.fn.to_kv",
            "cross_attention/to_out": "1.fn.to_out.0",
            "feed_forward/norm": "2.norm",
            "feed_forward/fc1": "2.fn.net.0",
            "feed_forward/fc2": "2.fn.net.3",
        }.items()
    },
}
_REFINE = {
    "deconv/first": ("deconv.first_conv.0", _conv),
    **{
        f"deconv/chains/{chain}/{step}/{path}": (f"deconv.deconv.{chain}.{3 * step + position}", transform)
        for chain in range(SCALES - 1)
        for step in range(chain + 1)
        for position, (path, transform) in enumerate((("conv", _deconv), ("norm", _same)))
    },
    **{name: (name, _linear) for name in ("dec_pose", "dec_shape", "dec_cam")},
}
_DISCRIMINATOR = {
    **{name: (name, _conv) for name in ("D_conv1", "D_conv2")},
    "pose_out": ("pose_out.{}", _one_output),
    **{name: (name, _linear) for name in ("betas_fc1", "betas_fc2", "betas_out")},
    **{f"D_alljoints_{name}": (f"D_alljoints_{name}", _linear) for name in ("fc1", "fc2", "out")},
}


def _within(path_prefix: str, key_prefix: str, table: Table) -> Table:
    """Put a prefix before all paths of a table, and another prefix before all keys."""
    return {f"{path_prefix}/{path}": (f"{key_prefix}.{key}", transform) for path, (key, transform) in table.items()}


TABLES: dict[str, Table] = {
    "hamer": {
        **_within("backbone", "backbone", BACKBONE),
        **_within("mano_head", "mano_head", _MEAN_HAND | _OUTPUT_LAYERS),
        **_within("mano_head/transformer", "mano_head.transformer", _DECODER),
        **_within("discriminator", "discriminator", _DISCRIMINATOR),
    },
    "wilor": {
        **_within("backbone", "backbone", BACKBONE | _MEAN_HAND | _OUTPUT_LAYERS),
        **{f"backbone/{name}": (f"backbone.{name}", _linear) for name in ("pose_emb", "shape_emb", "cam_emb")},
        **_within("refine_net", "refine_net", _REFINE),
        **_within("discriminator", "discriminator", _DISCRIMINATOR),
    },
    "vitpose": _within("backbone", "backbone", BACKBONE),
}
_UNUSED = {
    r"mano\..*": "MANO's arrays, which are read from the file of --mano instead",
    r"discriminator\..*": "only for training; model.hamer.discriminator=true includes it",
    r".*\.num_batches_tracked": "a counter of training steps",
    r"initialized": "a flag that only training uses",
    r"(keypoint_head|head|associate_keypoint_heads)\..*": "the head for joints of the body",
    r"backbone\.cls_token": "not used by the original model either",
    r"(mano_head|refine_net)\..*|backbone\.(init_|\w+_emb\.|dec).*": "only the backbone is converted",
}


class Source(NamedTuple):
    """The tensors of a checkpoint that make up one array of a model."""

    keys: list[str]  # one key, or one key per layer
    stacked: bool  # whether the array's first axis is the layer index
    transform: Transform  # of each tensor


def source_of(kind: str, path: str, shape: tuple[int, ...]) -> Source:
    """Find the tensors of a checkpoint that make up an array of our model.

    Args:
        kind: "hamer", "wilor" or "vitpose".
        path: path of a parameter or a batch statistic, such as "backbone/encoder/norm/scale".
        shape: shape of the array. If the array is stacked, its first axis is the layer index.
    """
    layer, _, leaf = path.rpartition("/")
    table = TABLES[kind]
    key, transform = table[path] if path in table else table[layer]
    if path not in table:
        key = f"{key}.{LEAF_NAMES[leaf]}"
        transform = transform if leaf == "kernel" or transform is _one_output else _same
    layers = range(shape[0]) if "{}" in key else [0]
    return Source([key.format(index) for index in layers], "{}" in key, transform)


def is_mapped(kind: str, path: str) -> bool:
    """Whether checkpoints of a kind contain our model's array at `path`."""
    return path in TABLES[kind] or path.rpartition("/")[0] in TABLES[kind]


def why_unused(key: str) -> str:
    """The reason why our model does not use the tensor `key` of a checkpoint."""
    return next((reason for pattern, reason in _UNUSED.items() if re.fullmatch(pattern, key)), "unknown")


def count_layers(keys: Iterable[str], pattern: str) -> int:
    """Count the layers in the keys of a checkpoint. {} in `pattern`, a key, is the layer index."""
    keys, number = set(keys), 0
    while pattern.format(number) in keys:
        number += 1
    return number
