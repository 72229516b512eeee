"""Open data sets by name: built-in ones and a user's own. Each data set is a source of records.

A user's own data set is one function, and its name is `module:function:PATH`:

    def load(path, split, *, without_val, mano):
        return [Record(...), ...]  # or any other `record.Source`

`path` is a `Path`; `split` is "train", "val" or "test". If `without_val` is True, "train" must not contain the records
of "val". `mano` is a `ManoLabels` if the model is trained with mesh labels, else None.
"""

import difflib
import functools
import typing
from pathlib import Path

from jaxhand.config import DataConfig, HandConfig, UserError, limits
from jaxhand.data import mix, own_source
from jaxhand.data.datasets import packed
from jaxhand.data.datasets.base import ManoLabels
from jaxhand.data.record import Source
from jaxhand.data.synthetic import dataset, photo
from jaxhand.hand import mano
from jaxhand.io import console
from jaxhand.io.plugins import load_object

READERS = {  # name → function, imported when the data set is opened
    "freihand": "jaxhand.data.datasets.freihand:load",
    "ho3d": "jaxhand.data.datasets.ho3d:load",
    "dexycb": "jaxhand.data.datasets.dexycb:load",
    "interhand": "jaxhand.data.datasets.interhand:load",
    "rhd": "jaxhand.data.datasets.rhd:load",
    "hamer": "jaxhand.data.datasets.hamer_tars:load",
    "hint": "jaxhand.data.datasets.hint:load",
    "folder": "jaxhand.data.datasets.folder:load",
}
SYNTHETIC = ("synthetic", "synthetic-photo")  # rendered sets, which have no path


def load(
    name: str | dict[str, float], split: str, config: DataConfig, seed: int, hand: HandConfig | None = None
) -> Source:
    """Open the data set `name`. Several names with weights become a `mix.Mix`.

    Args:
        name: as in `data.train` and `data.test`: "synthetic", "synthetic-photo", "NAME:PATH", "NAME-VARIANT:PATH" or
            "module:function:PATH".
        split: "train", or `config.test_split` to test a model.
        config: sizes of the synthetic data set. If `test_split` is "val", "train" does not contain the val records.
        seed: seed of the synthetic data set.
        hand: the hand model for mesh labels, in data sets that have them; None: joints only.

    Raises:
        UserError: the name is unknown, or the files at the path contain a mistake.
    """
    if isinstance(name, dict):
        return mix.Mix({each: load(each, split, config, seed, hand) for each in name}, name)
    check(name)
    count = config.train_samples if split == "train" else config.test_samples
    options = {
        "size": config.image_size,
        "seed": seed,
        "cache": config.cache or None,
        "mesh": hand is not None and not hand.mano_path,
    }
    with console.patience("rendering synthetic hands; they are kept for later runs"):
        if name == "synthetic":
            return dataset.load(split, count, view=config.view, crop_scale=config.crop_scale, **options)
        if name == "synthetic-photo":
            parts = {"without": config.photo.without, "background_folder": config.photo.backgrounds}
            return photo.load(split, count, **parts, **options)
    kind, path = _kind_and_path(name)
    return read(kind, path, split, without_val=config.test_split == "val", mano_path=hand.mano_path if hand else "")


def check(name: str | dict[str, float]) -> None:
    """Check the name of a data set, or of each in a mixture. No file of a data set is opened.

    Args:
        name: as for `load`.

    Raises:
        UserError: a name is unknown or has no path, or its module cannot be imported.
    """
    if isinstance(name, dict):
        for each in name:
            check(each)
    elif name not in SYNTHETIC:
        kind, path = _kind_and_path(name)
        if not path and (":" in kind or _is_built_in(kind)):
            raise UserError(f"unknown data set {name!r}; give its path, {kind}:PATH")
        reader(kind)


def read(kind: str, path: str | Path, split: str, *, without_val: bool = False, mano_path: str | Path = "") -> Source:
    """Open a data set on disk: in the layout of its authors, or packed by `jaxhand pack`.

    Args:
        kind: NAME or NAME-VARIANT, such as "dexycb-s1", or "module:function".
        path: folder or file of the data set.
        split: "train", "val" or "test".
        without_val: leave the records of "val" out of "train", if "val" is a part of "train".
        mano_path: MANO's file. With it, vertices and the poses that need MANO's arrays are read as well. It has no
            effect on a packed set, whose labels are fixed.

    Raises:
        UserError: the name is unknown, or the files at the path contain a mistake.
    """
    expanded = Path(path).expanduser()
    if (expanded / "packed.json").is_file():
        return packed.load(path, split, kind=kind, without_val=without_val)
    open_set = reader(kind)
    labels = ManoLabels(*mano.read_pose_space(mano_path), vertices=True) if mano_path else None
    options = {"without_val": without_val, "mano": labels}
    if ":" in kind:
        source = own_source.load(open_set, expanded, split, name=f"data set {kind}", **options)
    else:
        source = open_set(expanded, split, **options)
    if not 0 < len(source) <= limits.RECORDS:
        raise UserError(f"data set {kind}: {split} has {len(source):,} records, not 1 to {limits.RECORDS:,}")
    return source


def reader(kind: str) -> typing.Callable[..., Source]:
    """Return the function that opens a kind of data set; its signature is (path, split, *, without_val, mano).

    Args:
        kind: as for `read`.

    Raises:
        UserError: the name is unknown, or the module cannot be imported.
    """
    if ":" in kind:
        function = load_object(kind, "data set")
        if not callable(function):
            raise UserError(f"data set {kind} must be a function, got {type(function).__name__}")
        return typing.cast(typing.Callable[..., Source], function)
    if not _is_built_in(kind):
        raise _unknown(kind)
    name, _, variant = kind.partition("-")
    return functools.partial(load_object(READERS[name], "data set"), variant=variant)


def _is_built_in(kind: str) -> bool:
    return kind.partition("-")[0] in READERS


def _kind_and_path(name: str) -> tuple[str, str]:
    """Split "NAME:PATH" or "module:function:PATH" at the colon before the path."""
    kind, _, path = name.partition(":")
    function, colon, own_path = path.partition(":")
    if colon and function.isidentifier() and not _is_built_in(kind):
        return f"{kind}:{function}", own_path
    return kind, path


def _unknown(kind: str) -> UserError:
    if kind in SYNTHETIC:
        return UserError(f"data set {kind} takes no path: its hands are rendered; write {kind} alone")
    near = difflib.get_close_matches(kind.partition("-")[0], (*READERS, "synthetic"), n=1)
    nearest = f"did you mean {near[0]!r}? " if near else ""
    built_in = ", ".join(f"{name}:PATH" for name in READERS)
    return UserError(
        f"unknown data set {kind!r}; {nearest}known: synthetic, {built_in}, or module:function:PATH of your own"
    )
