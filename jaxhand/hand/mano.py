"""Read MANO's official files without running their code, and convert MANO poses to rotation matrices.

Romero et al., "Embodied Hands: Modeling and Capturing Hands and Bodies Together" (2017). The files have their own
licence and come from https://mano.is.tue.mpg.de. The files are in metres; jaxhand's arrays are in mm.
"""

import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.config import UserError, limits
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.hand.skeleton import SIDES
from jaxhand.hand.skinned import NUM_JOINTS, PARENTS, SkinnedHand
from jaxhand.io import numpy_files, pickles

# Indices of the vertices at the tips of thumb, index, middle, ring and little finger. The choice differs between code
# bases: HaMeR and WiLoR use smplx's vertices, DexYCB uses manopth's.
FINGERTIP_VERTICES = {
    "smplx": (744, 320, 443, 554, 671),
    "freihand": (744, 320, 443, 555, 672),
    "ho3d": (744, 333, 444, 555, 672),
    "manopth": (745, 317, 444, 556, 673),
}
_MANOPTH_LEFT = (745, 317, 445, 556, 673)
ELSEWHERE = "JAXHAND_MANO"  # environment variable: MANO's file or folder on this machine, if the path does not exist
_FILES = dict(zip(SIDES, ("MANO_RIGHT.pkl", "MANO_LEFT.pkl")))
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
    path: str | Path, *, side: str | None = None, fingertip_vertices: str = "smplx", fix_left_shape: bool = False
) -> SkinnedHand:
    """Read an official MANO file.

    Args:
        path: MANO_RIGHT.pkl, MANO_LEFT.pkl, or the folder that contains these files; or an .npz with the same arrays.
            If it does not exist, as in the config of a run from another machine: what JAXHAND_MANO (environment) names.
        side: "right" or "left"; a file of the other hand is then an error. None: as the file's name says; the right
            hand if `path` is a folder.
        fingertip_vertices: a name in `FINGERTIP_VERTICES`.
        fix_left_shape: negate x in the shape directions of a left hand. The released MANO_LEFT.pkl has the sign of the
            right hand there (vchoutas/smplx#48). Set it for the shapes of InterHand2.6M, but not for those of DexYCB.

    Returns:
        The hand, in mm.

    Raises:
        UserError: an argument is unknown, or the file does not exist, is damaged, is not MANO's, or refers to code.
    """
    if fingertip_vertices not in FINGERTIP_VERTICES:
        raise UserError(f"fingertip vertices {fingertip_vertices!r} are unknown; use {', '.join(FINGERTIP_VERTICES)}")
    file, side = _find(path, side)
    arrays = _read_arrays(file)
    rows = FINGERTIP_VERTICES[fingertip_vertices]
    if (fingertip_vertices, side) == ("manopth", "left"):
        rows = _MANOPTH_LEFT

    def points(vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
        return np.concatenate([vertices, vertices[list(rows)], joints]).astype(np.float32)

    template, shape_dirs, pose_dirs = (1000 * arrays[key] for key in ("v_template", "shapedirs", "posedirs"))
    if fix_left_shape and side == "left":
        shape_dirs = shape_dirs * np.array([-1, 1, 1])[:, None]
    regressor = arrays["J_regressor"]
    weights = arrays["weights"].astype(np.float32)
    return SkinnedHand(
        name="mano",
        side=side,
        template=points(template, regressor @ template),
        shape_dirs=points(shape_dirs, np.tensordot(regressor, shape_dirs, 1)),
        pose_dirs=points(pose_dirs, np.zeros((NUM_JOINTS, 3, 135))),
        global_scale_per_beta=0.0,
        weights=np.concatenate([weights, weights[list(rows)]]),
        faces=arrays["f"].astype(np.int32),
        mean_pose=arrays["hands_mean"].astype(np.float32),
        components=arrays["hands_components"].astype(np.float32),
    )


def read_pose_space(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read MANO's mean pose and principal components, which the poses of some data sets refer to.

    Args:
        path: MANO_RIGHT.pkl, or its folder.

    Returns:
        The mean pose (n, 45) and the principal components (n, 45, 45). n is 2 (right, left) if MANO_LEFT.pkl is in the
        same folder, else 1 (right).

    Raises:
        UserError: as for `read`.
    """
    right, _ = _find(path, "right")
    left = right.parent / _FILES["left"]
    hands = [_read_arrays(file) for file in ([right, left] if left.is_file() and left != right else [right])]
    return np.stack([hand["hands_mean"] for hand in hands]), np.stack([hand["hands_components"] for hand in hands])


def pose_rotations(
    hand_model: SkinnedHand, pose: jax.Array, *, kind: str = "axis_angle", flat_hand_mean: bool = True
) -> jax.Array:
    """Convert a pose to rotation matrices.

    Args:
        hand_model: has the mean pose and the principal components.
        pose: radians, in the form that `kind` names:
            "axis_angle": (..., 48) or (..., 16, 3);
            "pca": (..., 3 + n), the wrist's axis-angle, then coefficients of the first n of 45 components. With n = 45
            these are coefficients, too, although smplx would read 45 numbers as axis-angles;
            "matrix": (..., 16, 3, 3), returned unchanged.
        flat_hand_mean: True: the pose is absolute and 0 is the flat hand. False: 0 is the mean pose. Matrices are
            always absolute.

    Returns:
        Rotations (..., 16, 3, 3) of the joints relative to their parents, in MANO's joint order.

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
        fingers = jnp.matmul(pose[..., 3:], hand_model.components[: shape[-1] - 3], precision="highest")
    else:
        known = "axis_angle (..., 48) or (..., 16, 3), pca (..., 3 to 48), matrix (..., 16, 3, 3) with a flat hand mean"
        raise UserError(f"a pose of kind {kind!r} and shape {shape} is unknown; use {known}")
    if not flat_hand_mean:
        fingers = fingers + hand_model.mean_pose
    return axis_angle_to_matrix(jnp.concatenate([wrist, fingers], -1).reshape(*pose.shape[:-1], NUM_JOINTS, 3))


def _find(path: str | Path, side: str | None) -> tuple[Path, str]:
    """Return the path of the MANO file, and "right" or "left" for its hand. The arguments are those of `read`."""
    path = Path(path).expanduser()
    if not path.exists() and (elsewhere := os.environ.get(ELSEWHERE)):
        path = Path(elsewhere).expanduser()
    if side not in (None, *SIDES):
        raise UserError(f'side must be "right" or "left", got {side!r}')
    if path.is_dir():
        path = path / _FILES[side or "right"]
    found = next((each for each in SIDES if each in path.name.lower()), side or "right")
    if side not in (None, found):
        raise UserError(f"{path}: is the file of a {found} hand; give {_FILES[side]} or its folder")
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; download MANO from https://mano.is.tue.mpg.de and unpack it there, or "
            f"set the environment variable {ELSEWHERE} to its place on this machine"
        )
    return path, found


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read and check the arrays listed in `_SHAPES`: float64 in metres; `f` as stored."""
    if file.suffix == ".npz":
        content = numpy_files.read_npz(file, objects=True)
    else:
        content = pickles.load(file, placeholders=_PLACEHOLDERS)
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a MANO file (no dictionary of arrays); give MANO_RIGHT.pkl or MANO_LEFT.pkl")
    for key, shape in _SHAPES.items():
        if key not in content:
            raise UserError(f"{file}: not a MANO file (no key {key!r}); give MANO_RIGHT.pkl or MANO_LEFT.pkl")
        array = content[key]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.shape != shape:
            found = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
            raise UserError(f"{file}: not a MANO file ({key} is {found} and not numbers of shape {shape})")
        if not np.isfinite(array).all():
            raise UserError(f"{file}: {key} is not finite; download it again")
    if tuple(content["kintree_table"][0, 1:]) != PARENTS[1:]:
        raise UserError(f"{file}: not a MANO file (kintree_table is another tree of joints)")
    if not 0 <= content["f"].min() <= content["f"].max() < 778:
        raise UserError(f"{file}: f has indices of vertices that do not exist; download the file again")
    extent = np.ptp(content["v_template"], axis=0).max()
    if not 0.02 < extent < 2:
        raise UserError(f"{file}: not a MANO file (v_template is {extent:.3g} long, a hand in metres about 0.2)")
    return {key: content[key] if key == "f" else content[key].astype(np.float64) for key in _SHAPES}


# ---- Placeholders for the classes in the files


class _Chumpy(pickles.Placeholder):
    """Placeholder of chumpy.ch.Ch, whose content is the array `x`."""

    def materialize(self, convert):
        return np.asarray(convert(self.state["x"]))


class _Select(pickles.Placeholder):
    """Placeholder of chumpy.reordering.Select: some elements of an array in a new shape, e.g. 10 shape directions."""

    def materialize(self, convert):
        values = convert(self.state["a"]).ravel()[convert(self.state["idxs"])]
        return values.reshape(self.state["preferred_shape"]) if "preferred_shape" in self.state else values


class _CsrMatrix(pickles.Placeholder):
    """Placeholder of SciPy's sparse matrix in compressed sparse row (CSR) format."""

    def materialize(self, convert):
        return self._dense(convert, self.state["_shape"])

    def _dense(self, convert, shape):
        if math.prod(shape) > limits.SPARSE_ELEMENTS:
            raise ValueError(f"a sparse matrix of shape {shape}")
        dense, row_start = np.zeros(shape), convert(self.state["indptr"])
        if np.abs(np.diff(row_start.astype(float))).sum() > limits.SPARSE_ELEMENTS:
            raise ValueError("a sparse matrix with more entries than elements")
        indices = np.repeat(np.arange(shape[0]), np.diff(row_start)), convert(self.state["indices"])
        np.add.at(dense, indices, convert(self.state["data"]))  # entries at the same row and column are summed
        return dense


class _CscMatrix(_CsrMatrix):
    """Placeholder of SciPy's sparse matrix in compressed sparse column (CSC) format."""

    def materialize(self, convert):
        return self._dense(convert, self.state["_shape"][::-1]).T


_PLACEHOLDERS = {
    "chumpy.ch.Ch": _Chumpy,
    "chumpy.reordering.Select": _Select,
    **{f"scipy.sparse.{module}.csc_matrix": _CscMatrix for module in ("csc", "_csc")},
    **{f"scipy.sparse.{module}.csr_matrix": _CsrMatrix for module in ("csr", "_csr")},
}
