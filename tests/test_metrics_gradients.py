"""Gradients of the alignment: right where it has one, finite where it has none, and run at every size in time."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.metrics import mpjpe, pa_mpjpe, procrustes_align
from tests.test_metrics_procrustes import CASES, hands


def centred(count):
    return tuple(np.float64(points - points.mean(1, keepdims=True)) for points in hands(count))


@pytest.fixture(scope="module")
def cases():
    """All cases in one batch: pred, gt (cases * 8, 21, 3) float32."""
    pred, gt = centred(8)
    pairs = [tuple(np.broadcast_to(points, gt.shape) for points in change(pred, gt)) for change in CASES.values()]
    return tuple(np.concatenate(points).astype(np.float32) for points in zip(*pairs))


def directional(f, arguments, directions, step=1e-5):
    """The derivative of f (B,) along given directions by central differences."""
    ahead, behind = ([a + sign * step * d for a, d in zip(arguments, directions)] for sign in (1, -1))
    return (np.asarray(f(*ahead)) - np.asarray(f(*behind))) / (2 * step)


MEASURES = {
    "error": lambda pred, gt, valid, reflection: pa_mpjpe(pred, gt, reflection=reflection),
    "error of a mask": lambda pred, gt, valid, reflection: pa_mpjpe(pred, gt, reflection=reflection, valid=valid),
    "points": lambda pred, gt, valid, reflection: jnp.sin(
        procrustes_align(pred, gt, reflection=reflection, valid=valid) / 50
    ).sum((1, 2)),
    "one coordinate of a mask": lambda pred, gt, valid, reflection: jnp.sin(
        procrustes_align(pred, gt, reflection=reflection, valid=valid)[..., 2] / 50
    ).sum(1),
}


@pytest.mark.parametrize("reflection", [False, True])
@pytest.mark.parametrize("name", MEASURES)
def test_gradients_against_differences(name, reflection):
    pred, gt = (points + [3, -4, 500] for points in centred(12))
    pred[6:] *= [-1, 1, 1]
    rng = np.random.default_rng(3)
    valid = rng.random((12, 21)) < 0.7
    with jax.enable_x64(True):

        def f(pred, gt):
            return MEASURES[name](pred, gt, valid, reflection)

        gradients = jax.jit(jax.grad(lambda pred, gt: f(pred, gt).sum(), argnums=(0, 1)))(pred, gt)
        for which in (0, 1):
            directions = [np.zeros_like(pred), np.zeros_like(gt)]
            directions[which] = rng.normal(size=pred.shape)
            expected = directional(jax.jit(f), (pred, gt), directions)
            actual = (np.asarray(gradients[which]) * directions[which]).sum((1, 2))
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_the_kernel_of_one_hand_has_the_same_gradient():
    pred, gt = hands(16)
    ours = jax.grad(lambda pred: pa_mpjpe(pred, gt).sum())(pred)
    with jax.enable_x64(True):
        wide = jax.grad(lambda pred: pa_mpjpe(pred, gt).sum())(np.float64(pred))
    np.testing.assert_allclose(ours, wide, rtol=0, atol=5e-6)


@pytest.mark.parametrize("reflection", [False, True])
def test_gradients_are_finite_at_every_case(cases, reflection):
    def total(pred, gt, valid):
        return pa_mpjpe(pred, gt, reflection=reflection, valid=valid).sum()

    for valid in (None, np.arange(21) % 5 > 0):
        valid = None if valid is None else np.broadcast_to(valid, cases[0].shape[:2])
        for gradient in jax.grad(total, argnums=(0, 1))(*cases, valid):
            finite = np.isfinite(gradient).all((1, 2)).reshape(len(CASES), -1).all(1)
            assert [name for name, good in zip(CASES, finite) if not good] == []


def test_points_that_do_not_count_have_no_gradient():
    pred, gt = hands(4)
    valid = np.ones((4, 21))
    valid[:, [0, 5]] = 0
    pred[:, 0], gt[:, 5], pred[:, 5] = np.nan, np.inf, 1e9
    of_pred, of_gt = jax.grad(lambda *points: pa_mpjpe(*points, valid=valid).sum(), argnums=(0, 1))(pred, gt)
    for gradient in (of_pred, of_gt):
        assert np.isfinite(gradient).all() and np.abs(gradient[:, [0, 5]]).max() == 0
        assert np.abs(gradient[:, 1]).min() > 0

    of_pred = jax.grad(lambda pred: mpjpe(pred, gt, valid=valid).sum())(pred)
    assert np.isfinite(of_pred).all() and np.abs(of_pred[:, [0, 5]]).max() == 0


def test_a_perfect_prediction_has_no_gradient():
    _, gt = hands(4)
    assert np.abs(jax.grad(lambda pred: mpjpe(pred, gt).sum())(gt)).max() == 0


def test_it_can_be_learned_from():
    pred, gt = hands(8)
    step = jax.jit(jax.value_and_grad(lambda pred: pa_mpjpe(pred, gt).sum()))
    first, _ = step(pred)
    for _ in range(50):
        error, gradient = step(pred)
        pred = pred - 20 * gradient
    assert error < 0.2 * first


EVERY_SIZE = """
import sys, time
import jax
import jax.numpy as jnp
import numpy as np
from jaxhand.metrics import pa_mpjpe

names, counts = (argument.split(",") for argument in sys.argv[1:3])
rng = np.random.default_rng(0)
for points in map(int, sys.argv[3:]):
    for count in map(int, counts):
        pred, gt = map(jnp.asarray, rng.normal(size=(2, count, points, 3)).astype(np.float32))
        valid = jnp.asarray(rng.random((count, points)) < 0.9).at[:, 0].set(True)
        reflection = points % 2 == 0

        def total(pred, gt, valid=None):
            return pa_mpjpe(2 * pred, gt, reflection=reflection, valid=valid).mean()

        measures = {
            "alone": lambda: pa_mpjpe(pred, gt, reflection=reflection),
            "mask": lambda: pa_mpjpe(pred, gt, reflection=reflection, valid=valid),
            "inside": lambda: jax.jit(total)(pred, gt),
            "mask-inside": lambda: jax.jit(total)(pred, gt, valid),
            "gradient": lambda: jax.jit(jax.value_and_grad(total))(pred, gt)[1],
            "mask-gradient": lambda: jax.jit(jax.value_and_grad(total))(pred, gt, valid)[1],
        }
        for name in names:
            begin = time.time()
            result = np.asarray(measures[name]())
            assert np.isfinite(result).all()
            assert time.time() - begin < 60, (name, points, count, time.time() - begin)
print("done")
"""


def run_sizes(names, counts, points, timeout):
    """In a process of its own: XLA:CPU has been seen to run such kernels for minutes, and only a kill ends that."""
    command = [sys.executable, "-c", EVERY_SIZE, names, counts, *map(str, points)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=timeout)
    assert done.stdout.strip() == "done", done.stderr


EVERYTHING = "alone,mask,inside,mask-inside,gradient,mask-gradient"


def test_sizes_are_run_in_time():
    """Some numbers of points that are unrolled, and some that are not; `make test-slow` runs all."""
    run_sizes("alone,mask", "2000", [3, 8, 16, 21, 24, 25, 778], 600)


def test_all_ways_are_run_in_time():
    """With and without a mask and a gradient, and with a mean that a compiler may fuse with the kernel."""
    run_sizes(EVERYTHING, "2000", [3, 21, 24], 600)


@pytest.mark.slow
def test_every_unrolled_size_is_run_in_time():
    run_sizes(EVERYTHING, "5,1000", range(3, 26), 1800)


@pytest.mark.slow
def test_every_size_is_run_in_time():
    run_sizes("alone,inside", "5,1000", range(3, 779), 3600)


def test_many_batch_sizes_are_run_in_time():
    run_sizes("alone,inside", "1,2,16,17,1023,30000", [21], 600)
