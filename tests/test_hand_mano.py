"""MANO: equal to smplx, HaMeR's wrapper and manopth; its poses, its files, and hostile or damaged files."""

import os
import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.config import HandConfig, UserError
from jaxhand.hand import load, mano
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.hand.skinned import PARENTS, forward
from tests.support import mano_file

MODEL = mano_file.model()
OF_MANO = [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3]  # MANO's joints among our 21


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a right and a left hand, which differ."""
    folder = tmp_path_factory.mktemp("mano")
    mano_file.write(folder / "MANO_RIGHT.pkl", MODEL)
    mano_file.write(folder / "MANO_LEFT.pkl", mano_file.model(seed=1))
    return folder


@pytest.fixture(scope="module")
def hand(folder):
    return mano.read(folder)


@pytest.fixture(scope="module")
def poses():
    """Axis-angles (6, 48) and shapes (6, 10)."""
    rng = np.random.default_rng(2)
    return rng.normal(size=(6, 48), scale=0.5).astype(np.float32), rng.normal(size=(6, 10)).astype(np.float32)


def plain(model: dict, axis_angles: np.ndarray, shape: np.ndarray, tips: tuple) -> tuple[np.ndarray, np.ndarray]:
    """One hand, step by step in float64, mm: vertices and our 21 joints, from axis-angles (16, 3)."""
    rotations = np.float64(axis_angle_to_matrix(axis_angles))
    shaped = model["v_template"] + model["shapedirs"] @ shape
    joints = model["J_regressor"] @ shaped
    rest = shaped + model["posedirs"] @ (rotations[1:] - np.eye(3)).ravel()
    motions = np.tile(np.eye(4), (16, 1, 1))  # each maps points of the rest pose to the posed hand
    for joint, parent in enumerate(PARENTS):
        about = np.eye(4)
        about[:3, :3], about[:3, 3] = rotations[joint], joints[joint] - rotations[joint] @ joints[joint]
        motions[joint] = motions[parent] @ about if joint else about
    blended = np.einsum("vj,jab->vab", model["weights"], motions)
    vertices = np.einsum("vab,vb->va", blended, np.c_[rest, np.ones(778)])[:, :3]
    moved = np.einsum("jab,jb->ja", motions, np.c_[joints, np.ones(16)])[:, :3]
    ours = [moved[0]]
    for first, tip in zip((13, 1, 4, 10, 7), tips):
        ours += [*moved[first : first + 3], vertices[tip]]
    return 1000 * vertices, 1000 * np.array(ours)


def test_equal_to_smplx_hamer_and_manopth(shared, tmp_path):
    golden = dict(np.load(shared / "golden/mano_synth.npz"))
    file = mano_file.write(tmp_path / "MANO_RIGHT.pkl", {k[6:]: v for k, v in golden.items() if k.startswith("model/")})
    hands = {tips: mano.read(file, fingertip_vertices=tips) for tips in ("smplx", "manopth")}
    axis_angles, matrices, shape = (np.float32(golden[k]) for k in ("pose_aa48", "hamer_wrapper/rotmats", "betas"))
    pca = np.concatenate([axis_angles[:, :3], np.float32(golden["pca15"])], 1)
    shift = np.float32(1000 * golden["transl"])
    cases = [
        ("smplx/flat1/", "verts", "joints", axis_angles, {"flat_hand_mean": True}, shift),
        ("smplx/flat0/", "verts", "joints", axis_angles, {"flat_hand_mean": False}, shift),
        ("smplx/pca15/", "verts", "joints", pca, {"kind": "pca", "flat_hand_mean": False}, shift),
        ("hamer_wrapper/", "verts", "joints21_openpose", matrices, {"kind": "matrix"}, 0 * shift),
        ("manopth/aa_flat/", "verts_mm", "joints_mm", axis_angles, {"flat_hand_mean": True}, shift),
        ("manopth/aa_mean/", "verts_mm", "joints_mm", axis_angles, {"flat_hand_mean": False}, shift),
        ("manopth/pca15_mean/", "verts_mm", "joints_mm", pca, {"kind": "pca", "flat_hand_mean": False}, shift),
    ]
    for name, vertices, joints, pose, options, moved in cases:
        hand, unit = (hands["manopth"], 1) if "manopth" in name else (hands["smplx"], 1000)
        posed = forward(hand, mano.pose_rotations(hand, pose, **options), shape, moved)
        expected = unit * golden[name + joints]
        found = posed.joints if expected.shape[1] == 21 else posed.joints[:, OF_MANO]
        np.testing.assert_allclose(posed.vertices, unit * golden[name + vertices], atol=1e-3, rtol=0, err_msg=name)
        np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0, err_msg=name)


def test_equal_to_a_plain_model(hand, poses):
    axis_angles, shape = poses
    posed = forward(hand, mano.pose_rotations(hand, axis_angles), shape)
    for i in range(2):
        vertices, joints = plain(MODEL, axis_angles[i].reshape(16, 3), shape[i], mano.FINGERTIP_VERTICES["smplx"])
        np.testing.assert_allclose(posed.vertices[i], vertices, atol=1e-3)
        np.testing.assert_allclose(posed.joints[i], joints, atol=1e-3)
    assert posed.vertices.dtype == posed.joints.dtype == np.float32
    assert hand.num_vertices == 778 and hand.side == "right" and hand.name == "mano" and hand.global_scale_per_beta == 0
    np.testing.assert_array_equal(hand.faces, MODEL["f"])


def test_leading_axes_broadcast_and_map(hand, poses):
    axis_angles, shape = poses
    matrices = mano.pose_rotations(hand, axis_angles)
    flat = forward(hand, matrices, shape)
    many = forward(hand, matrices.reshape(2, 3, 16, 3, 3), shape.reshape(2, 3, 10), np.full(3, 7, np.float32))
    assert many.vertices.shape == (2, 3, 778, 3) and many.joints.shape == (2, 3, 21, 3)
    np.testing.assert_allclose(many.vertices.reshape(6, 778, 3), flat.vertices + 7, atol=1e-4)
    mapped = jax.vmap(forward, (None, 0, 0))(hand, matrices, shape)
    np.testing.assert_allclose(mapped.joints, flat.joints, atol=1e-4)
    one = forward(hand, matrices[0], shape)  # one pose of six people
    np.testing.assert_allclose(one.joints[0], flat.joints[0], atol=1e-4)
    np.testing.assert_allclose(one.joints[:, 0], flat.joints[:, 0], atol=1e-4)  # it rotates about the wrist
    assert forward(hand, matrices[:0], shape[:0]).vertices.shape == (0, 778, 3)


def test_gradients_are_right_and_finite_at_rest(hand, poses):
    def score(pose, shape, translation):
        posed = forward(hand, mano.pose_rotations(hand, pose), shape, translation)
        return jnp.sum(posed.joints * ramp) + jnp.sum(posed.vertices[:, ::70] ** 2) / 100

    ramp = np.linspace(-1, 1, 63, dtype=np.float32).reshape(21, 3)
    gradient = jax.jit(jax.grad(score, (0, 1, 2)))
    score = jax.jit(score)
    given = [*(part[:1] for part in poses), np.zeros((1, 3), np.float32)]
    rng = np.random.default_rng(0)
    for part, found in enumerate(gradient(*given)):
        step = rng.normal(size=given[part].shape)
        ends = ([each + (sign * 1e-2 * step if n == part else 0) for n, each in enumerate(given)] for sign in (1, -1))
        upper, lower = (float(score(*(np.float32(each) for each in end))) for end in ends)
        np.testing.assert_allclose(np.sum(found * step), (upper - lower) / 2e-2, rtol=0.01)
    assert all(np.isfinite(each).all() for each in gradient(*(0 * each for each in given)))


def test_poses_as_principal_components(hand, poses):
    axis_angles, _ = poses
    coefficients = axis_angles[:, 3:] @ hand.components.T  # the components are orthonormal
    every = np.concatenate([axis_angles[:, :3], coefficients], 1)
    expected = mano.pose_rotations(hand, axis_angles)
    np.testing.assert_allclose(mano.pose_rotations(hand, every, kind="pca"), expected, atol=1e-5)
    few = np.where(np.arange(48) < 9, every, 0)
    expected = mano.pose_rotations(hand, few, kind="pca", flat_hand_mean=False)
    found = mano.pose_rotations(hand, few[:, :9], kind="pca", flat_hand_mean=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    mean = mano.pose_rotations(hand, few[:, :3], kind="pca", flat_hand_mean=False)
    np.testing.assert_allclose(mean[0, 1:], axis_angle_to_matrix(hand.mean_pose.reshape(15, 3)), atol=1e-6)
    found = mano.pose_rotations(hand, axis_angles.reshape(6, 16, 3))
    np.testing.assert_array_equal(found, mano.pose_rotations(hand, axis_angles))


@pytest.mark.parametrize(
    "shape, options",
    [((2, 45), {}), ((2, 49), {"kind": "pca"}), ((16, 3), {"kind": "matrix"}), ((48,), {"kind": "quaternion"})]
    + [((16, 3, 3), {"kind": "matrix", "flat_hand_mean": False}), ((), {"kind": "pca"})],
)
def test_poses_of_another_shape(hand, shape, options):
    with pytest.raises(UserError, match=r"a pose of kind .* and shape \(.*\) is unknown"):
        mano.pose_rotations(hand, np.zeros(shape), **options)


def test_fingertips_by_convention(folder):
    for side in ("right", "left"):
        for tips in ("smplx", "freihand", "ho3d", "manopth"):
            hand = mano.read(folder, side=side, fingertip_vertices=tips)
            rows = list(mano.FINGERTIP_VERTICES[tips])
            if (side, tips) == ("left", "manopth"):
                rows[2] = 445
            for array in (hand.template, hand.shape_dirs, hand.pose_dirs, hand.weights):
                np.testing.assert_array_equal(array[778:783], array[rows])
    with pytest.raises(UserError, match="vertices 'manotorch' are unknown; use smplx, freihand, ho3d, manopth"):
        mano.read(folder, fingertip_vertices="manotorch")


def test_left_hands_and_the_fix_of_their_shape(folder):
    left, right = mano.read(folder, side="left"), mano.read(folder / "MANO_RIGHT.pkl")
    assert left.side == mano.read(folder / "MANO_LEFT.pkl").side == "left" and right.side == "right"
    assert not np.array_equal(left.template, right.template)
    fixed = mano.read(folder, side="left", fix_left_shape=True)
    np.testing.assert_array_equal(fixed.shape_dirs, left.shape_dirs * np.float32([-1, 1, 1])[:, None])
    np.testing.assert_array_equal(mano.read(folder, fix_left_shape=True).shape_dirs, right.shape_dirs)
    fault = r"MANO_LEFT\.pkl: is the file of a left hand; give MANO_RIGHT\.pkl or its folder"
    with pytest.raises(UserError, match=fault):
        mano.read(folder / "MANO_LEFT.pkl", side="right")
    with pytest.raises(UserError, match="side must be .*, got 'both'"):
        mano.read(folder, side="both")


def test_the_pose_space_of_data_sets(folder, tmp_path):
    mean, components = mano.read_pose_space(folder / "MANO_RIGHT.pkl")
    np.testing.assert_array_equal(mean, [MODEL["hands_mean"], mano_file.model(seed=1)["hands_mean"]])
    assert components.shape == (2, 45, 45)
    mano_file.write(tmp_path / "MANO_RIGHT.pkl", MODEL)
    mean, components = mano.read_pose_space(tmp_path)
    np.testing.assert_array_equal(components, MODEL["hands_components"][None])
    assert mean.shape == (1, 45)


def test_the_hand_of_a_config(folder):
    config = HandConfig(mano_path=str(folder), tips="ho3d")
    hand = load(config)
    assert hand is load(HandConfig(mano_path=str(folder), tips="ho3d")) and hash(hand) == hash(hand)
    np.testing.assert_array_equal(hand.template[779], hand.template[333])
    with pytest.raises(UserError, match="is the file of a left hand"):
        load(HandConfig(mano_path=str(folder / "MANO_LEFT.pkl")))
    with pytest.raises(UserError, match=r"none/MANO_RIGHT\.pkl: no such file; download MANO from https"):
        load(HandConfig(mano_path=str(folder / "none" / "MANO_RIGHT.pkl")))


def test_a_batch_is_fast(hand):
    matrices, shape = np.tile(np.eye(3, dtype=np.float32), (64, 16, 1, 1)), np.zeros((64, 10), np.float32)
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        jax.block_until_ready(forward(hand, matrices, shape))
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.1  # a few ms; a loop over hands or vertices would show


# ---- files


def same(a, b):
    for name in ("template", "shape_dirs", "pose_dirs", "weights", "faces", "mean_pose", "components"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("protocol", (0, 1, 2))
def test_files_of_python_2(hand, protocol, tmp_path):
    same(mano.read(mano_file.write(tmp_path / "MANO_RIGHT.pkl", MODEL, protocol)), hand)


def test_other_representations_of_the_same_arrays(hand, tmp_path):
    """Plain arrays, as in files converted without chumpy; a matrix by rows; chumpy objects within chumpy objects."""
    file = tmp_path / "a.pkl"
    file.write_bytes(pickle.dumps(MODEL))
    same(mano.read(file), hand)
    rows = mano_file.sparse(MODEL["J_regressor"], "scipy.sparse._csr.csr_matrix")
    keys = ("v_template", "weights", "shapedirs")
    chumpy = {key: mano_file.Named("chumpy.ch.Ch", x=mano_file.chumpy(MODEL[key])) for key in keys}
    file.write_bytes(mano_file.pickled(MODEL | chumpy | {"J_regressor": rows, "shared": [rows, rows]}))
    same(mano.read(file), hand)


def test_matrices_of_scipy_itself(hand, tmp_path):
    sparse = pytest.importorskip("scipy.sparse", reason="compares with scipy")
    for kind in (sparse.csc_matrix, sparse.csr_matrix):
        for protocol in (2, 5):
            file = tmp_path / "a.pkl"
            file.write_bytes(pickle.dumps(MODEL | {"J_regressor": kind(MODEL["J_regressor"])}, protocol))
            same(mano.read(file), hand)


class Runs:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda mark: {"bs_type": Runs(os.system, f"touch {mark}")}, r"posix\.system|nt\.system"),
        (lambda mark: {"v_template": Runs(eval, f"open({str(mark)!r}, 'w')")}, r"__builtin__\.eval"),
        (lambda mark: {"J": mano_file.Named("chumpy.ch.Ch", x=[Runs(os.system, f"touch {mark}")])}, r"posix\.system"),
        (lambda mark: {"J": mano_file.Named("chumpy.ch_ops.add", a=1, b=2)}, r"chumpy\.ch_ops\.add"),
        (lambda mark: {"J": mano_file.Named("chumpy.ch.ChLambda", lmb=None)}, r"chumpy\.ch\.ChLambda"),
        (lambda mark: {"J": mano_file.Named("scipy.sparse.lil.lil_matrix", rows=[])}, r"scipy\.sparse\.lil\."),
        (lambda mark: {"J": mano_file.Named("scipy.io.loadmat", file="a")}, r"scipy\.io\.loadmat"),
    ],
)
def test_other_globals_are_refused_by_name(change, named, tmp_path):
    mark = tmp_path / "ran"
    for protocol in (0, 2):
        (tmp_path / "MANO_RIGHT.pkl").write_bytes(mano_file.pickled(MODEL | change(mark), protocol))
        with pytest.raises(UserError, match=rf"MANO_RIGHT\.pkl: refers to ({named}).*: refused") as error:
            mano.read(tmp_path)
        assert "\n" not in str(error.value) and not mark.exists()


@pytest.mark.parametrize(
    "content, message",
    [
        # BUILD with a pair sets attributes, here of the placeholder class of chumpy's, and of its function
        (b"\x80\x02cchumpy.ch\nCh\nN}U\x0bmaterializecposix\nsystem\ns\x86b.", r"refers to posix\.system"),
        (b"\x80\x02cchumpy.ch\nCh\nN}U\x0bmaterializecchumpy.ch\nCh\ns\x86b.", "damaged or incomplete pickle"),
        (b"\x80\x04\x8c\x09chumpy.ch\x8c\x0bCh.__init__\x93.", r"refers to chumpy\.ch\.Ch\.__init__"),
        (b"\x80\x04\x8c\x09chumpy.ch\x8c\x1aCh.materialize.__globals__\x93.", r"refers to chumpy\.ch\.Ch\.materialize"),
        (b"\x80\x02cchumpy.ch\nCh\nU\x02id\x85R.", "damaged or incomplete pickle"),  # called with an argument
        (b"\x80\x02cchumpy.ch\nCh\n)\x81.", "damaged or incomplete pickle"),  # without a state
        (b"\x80\x02cchumpy.ch\nCh\n)\x81q\x00}U\x01xh\x00sb.", "damaged or incomplete pickle"),  # an array of itself
        (b"\x80\x02ccopy_reg\n_reconstructor\nc__builtin__\nset\nc__builtin__\nobject\nN\x87R.", "_reconstructor"),
        (b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (n + 1, n, n) for n in range(90)) + b".", "no dictionary"),
    ],
)
def test_forged_pickles_are_refused(content, message, tmp_path):
    methods = vars(mano._PLACEHOLDERS["chumpy.ch.Ch"]).copy()
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        mano.read(tmp_path)
    assert vars(mano._PLACEHOLDERS["chumpy.ch.Ch"]) == methods


def test_other_files_are_refused(folder, tmp_path):
    file, whole = tmp_path / "MANO_RIGHT.pkl", (folder / "MANO_RIGHT.pkl").read_bytes()
    for end in (0, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"MANO_RIGHT\.pkl: damaged or incomplete pickle"):
            mano.read(tmp_path)
    nan = np.where(np.arange(3) == 1, np.nan, MODEL["v_template"])
    for change, message in (
        ({"weights": None}, "not a MANO file .weights is NoneType and not numbers"),
        (
            {"shapedirs": MODEL["shapedirs"][..., :9]},
            r".*shapedirs is \(778, 3, 9\) float64 and not .* \(778, 3, 10\)",
        ),
        ({"hands_mean": np.array(["a"] * 45)}, r".*hands_mean is \(45,\) <U1 and not numbers"),
        ({"v_template": nan}, "v_template is not finite"),
        ({"v_template": 1000 * MODEL["v_template"]}, r"not a MANO file \(v_template is \d+ long, a hand in metres"),
        ({"kintree_table": MODEL["kintree_table"][:, ::-1]}, "not a MANO file .kintree_table is another tree"),
        ({"f": MODEL["f"] + 1}, "f has indices of vertices that do not exist"),
    ):
        file.write_bytes(mano_file.pickled(MODEL | change))
        with pytest.raises(UserError, match=rf"MANO_RIGHT\.pkl: {message}"):
            mano.read(tmp_path)
    file.write_bytes(mano_file.pickled({key: MODEL[key] for key in MODEL if key != "posedirs"}))
    with pytest.raises(UserError, match=r"MANO_RIGHT\.pkl: not a MANO file \(no key 'posedirs'\)"):
        mano.read(tmp_path)
    file.write_bytes(mano_file.pickled([1, 2]))
    with pytest.raises(UserError, match="no dictionary of arrays"):
        mano.read(tmp_path)
    with pytest.raises(UserError, match=r"MANO_LEFT\.pkl: no such file"):
        mano.read(tmp_path, side="left")


def test_the_file_of_a_run_from_another_machine(tmp_path, monkeypatch):
    """The path in the config does not exist here: JAXHAND_MANO names the place, for every command."""
    here = tmp_path / "here"
    here.mkdir()
    mano_file.write(here / "MANO_RIGHT.pkl", MODEL)
    monkeypatch.setenv("JAXHAND_MANO", str(here))
    assert mano.read(tmp_path / "there" / "MANO_RIGHT.pkl").side == "right"
    monkeypatch.delenv("JAXHAND_MANO")
    with pytest.raises(UserError, match="no such file; .* or set the environment variable JAXHAND_MANO to its place"):
        mano.read(tmp_path / "there" / "MANO_RIGHT.pkl")


def test_vertices_at_the_tips():
    """Those of smplx, FreiHAND's and HO-3D's code, and manopth, thumb to little finger."""
    assert mano.FINGERTIP_VERTICES == {
        "smplx": (744, 320, 443, 554, 671),
        "freihand": (744, 320, 443, 555, 672),
        "ho3d": (744, 333, 444, 555, 672),
        "manopth": (745, 317, 444, 556, 673),
    }
    assert mano._MANOPTH_LEFT == (745, 317, 445, 556, 673)
