"""MANO: its official files, read without running anything from them, and its ways to write a pose.

Romero et al., "Embodied Hands: Modeling and Capturing Hands and Bodies Together" (2017). The files are under their
own licence and come from https://mano.is.tue.mpg.de; they are in metres, all here is in mm.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.config import UserError
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.hand.skinned import NUM_JOINTS, PARENTS, SkinnedHand
from jaxhand.io import pickles

# Which vertices are the tips of thumb, index, middle, ring, little: every code has its own. HaMeR and WiLoR follow
# smplx, DexYCB manopth.
TIPS = {
    "smplx": (744, 320, 443, 554, 671),
    "freihand": (744, 320, 443, 555, 672),
    "ho3d": (744, 333, 444, 555, 672),
    "manopth": (745, 317, 444, 556, 673),
}
_MANOPTH_LEFT = (745, 317, 445, 556, 673)
_FILES = {"right": "MANO_RIGHT.pkl", "left": "MANO_LEFT.pkl"}
_SHAPES = {
    "v_template": (778, 3),
    "shapedirs": (778, 3, 10),
    "posedirs": (778, 3, 135),
    "J_regressor": (16, 778),
    "weights": (778, 16),
    "kintree_table": (2, 16),
    "f": (1538, 3),
    "hands_mean": (45,),
    "hands_components": (45, 45),
}


def read(
    path: str | Path, *, side: str | None = None, tips: str = "smplx", fix_left_shape: bool = False
) -> SkinnedHand:
    """Read an official MANO file.

    Args:
        path: MANO_RIGHT.pkl, MANO_LEFT.pkl, or the folder that holds them.
        side: "right" or "left"; if None what the file's name says, of a folder the right hand. A name that says the
            other side is an error.
        tips: whose vertices are the finger tips, a name in `TIPS`.
        fix_left_shape: turn the x of a left hand's shape round, which MANO_LEFT.pkl as released has with the right
            hand's sign (vchoutas/smplx#48). InterHand2.6M's shapes want it, DexYCB's do not.

    Raises:
        UserError: there is no such file or name of tips, it is damaged, wants to run anything, or is not MANO.
    """
    if tips not in TIPS:
        raise UserError(f"tips {tips!r} are unknown; there are {', '.join(TIPS)}")
    file, side = _find(path, side)
    numbers = _numbers(file)
    tip_rows = list(_MANOPTH_LEFT if (tips, side) == ("manopth", "left") else TIPS[tips])

    def points(of_vertices, of_joints):
        return np.concatenate([of_vertices, of_vertices[tip_rows], of_joints]).astype(np.float32)

    template, shape_dirs, pose_dirs = (1000 * numbers[key] for key in ("v_template", "shapedirs", "posedirs"))
    if fix_left_shape and side == "left":
        shape_dirs = shape_dirs * np.array([-1, 1, 1])[:, None]
    regressor = numbers["J_regressor"]
    weights = numbers["weights"].astype(np.float32)
    return SkinnedHand(
        name="mano",
        side=side,
        template=points(template, regressor @ template),
        shape_dirs=points(shape_dirs, np.tensordot(regressor, shape_dirs, 1)),
        pose_dirs=points(pose_dirs, np.zeros((NUM_JOINTS, 3, 135))),
        growth=0.0,
        weights=np.concatenate([weights, weights[tip_rows]]),
        faces=numbers["f"].astype(np.int32),
        mean_pose=numbers["hands_mean"].astype(np.float32),
        components=numbers["hands_components"].astype(np.float32),
    )


def pose_numbers(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """What data sets need of MANO to read their poses: the mean pose (n, 45) and its components (n, 45, 45).

    n is 1 for the right hand alone, 2 for right and left where the left hand's file lies beside. `path` and errors are
    those of `read`.
    """
    right, _ = _find(path, "right")
    left = right.parent / _FILES["left"]
    both = [_numbers(file) for file in ([right, left] if left.is_file() and left != right else [right])]
    return np.stack([n["hands_mean"] for n in both]), np.stack([n["hands_components"] for n in both])


def pose_rotations(
    hand: SkinnedHand, pose: jax.Array, *, kind: str = "axis_angle", flat_hand_mean: bool = True
) -> jax.Array:
    """A pose → rotation matrices (..., 16, 3, 3) of the joints in MANO's order.

    Args:
        hand: whose mean pose and components.
        pose: by `kind`, in radians:
            "axis_angle": (..., 48) or (..., 16, 3);
            "pca": (..., 3 + n), the wrist's axis-angle and coefficients of the first n of 45 components. All 45 are
            components too: smplx takes them for axis-angles;
            "matrix": (..., 16, 3, 3), which are returned.
        flat_hand_mean: the pose is absolute, 0 is the flat hand. If False, 0 is the mean pose. Matrices are absolute.

    Raises:
        UserError: the pose has another shape, or the kind is unknown.
    """
    shape = np.shape(pose)
    if kind == "matrix" and shape[-3:] == (NUM_JOINTS, 3, 3) and flat_hand_mean:
        return jnp.asarray(pose)
    if kind == "axis_angle" and (shape[-1:] == (48,) or shape[-2:] == (NUM_JOINTS, 3)):
        pose = jnp.reshape(pose, (*shape[: -1 if shape[-1] == 48 else -2], 48))
        wrist, fingers = pose[..., :3], pose[..., 3:]
    elif kind == "pca" and len(shape) and 3 <= shape[-1] <= 48:
        pose = jnp.asarray(pose)
        wrist = pose[..., :3]
        fingers = jnp.matmul(pose[..., 3:], hand.components[: shape[-1] - 3], precision="highest")
    else:
        known = "axis_angle (..., 48) or (..., 16, 3), pca (..., 3 to 48), matrix (..., 16, 3, 3) with a flat hand mean"
        raise UserError(f"a pose of kind {kind!r} and shape {shape} cannot be read; there are {known}")
    if not flat_hand_mean:
        fingers = fingers + hand.mean_pose
    return axis_angle_to_matrix(jnp.concatenate([wrist, fingers], -1).reshape(*pose.shape[:-1], NUM_JOINTS, 3))


def _find(path: str | Path, side: str | None) -> tuple[Path, str]:
    """The file of a side, and the side."""
    path = Path(path).expanduser()
    if side not in (None, *_FILES):
        raise UserError(f"side {side!r} is neither right nor left")
    if path.is_dir():
        path = path / _FILES[side or "right"]
    named = next((each for each in _FILES if each in path.name.lower()), side or "right")
    if side not in (None, named):
        raise UserError(f"{path}: is of a {named} hand; give {_FILES[side]} or its folder")
    if not path.is_file():
        raise UserError(f"{path}: no such file; download MANO from https://mano.is.tue.mpg.de and unpack it there")
    return path, named


def _numbers(file: Path) -> dict[str, np.ndarray]:
    """The checked arrays of `_SHAPES`."""
    content = pickles.load(file, stands=_STANDS)
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no dictionary of arrays: not a MANO file")
    for key, shape in _SHAPES.items():
        if key not in content:
            raise UserError(f"{file}: has no {key!r}: not a MANO file")
        array = content[key]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.shape != shape:
            found = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
            raise UserError(f"{file}: {key} is {found}, not numbers {shape}: not a MANO file")
        if not np.isfinite(array).all():
            raise UserError(f"{file}: {key} is not finite; download it again")
    if tuple(content["kintree_table"][0, 1:]) != PARENTS[1:]:
        raise UserError(f"{file}: kintree_table is not the tree of MANO's joints")
    if not 0 <= content["f"].min() <= content["f"].max() < 778:
        raise UserError(f"{file}: f names vertices that are not there")
    extent = np.ptp(content["v_template"], axis=0).max()
    if not 0.02 < extent < 2:
        raise UserError(f"{file}: v_template is {extent:.3g} long: not a hand in metres")
    return {key: content[key] if key == "f" else content[key].astype(np.float64) for key in _SHAPES}


# ---- What stands for the classes of the files while they are read


class _Chumpy(pickles.Stand):
    """chumpy.ch.Ch: an array `x`."""

    def made(self, make):
        return np.asarray(make(self.state["x"]))


class _Select(pickles.Stand):
    """chumpy.reordering.Select: some numbers of an array in another shape, as the first shape directions of more."""

    def made(self, make):
        numbers = make(self.state["a"]).ravel()[make(self.state["idxs"])]
        return numbers.reshape(self.state["preferred_shape"]) if "preferred_shape" in self.state else numbers


class _Rows(pickles.Stand):
    """scipy.sparse's matrix compressed by rows."""

    def made(self, make):
        return self._dense(make, self.state["_shape"])

    def _dense(self, make, shape):
        dense, start = np.zeros(shape), make(self.state["indptr"])
        at = np.repeat(np.arange(shape[0]), np.diff(start)), make(self.state["indices"])
        np.add.at(dense, at, make(self.state["data"]))  # of equal places the sum
        return dense


class _Columns(_Rows):
    """scipy.sparse's matrix compressed by columns."""

    def made(self, make):
        return self._dense(make, self.state["_shape"][::-1]).T


_STANDS = {
    "chumpy.ch.Ch": _Chumpy,
    "chumpy.reordering.Select": _Select,
    **{f"scipy.sparse.{module}.csc_matrix": _Columns for module in ("csc", "_csc")},
    **{f"scipy.sparse.{module}.csr_matrix": _Rows for module in ("csr", "_csr")},
}
