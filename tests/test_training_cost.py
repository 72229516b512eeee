"""The cost of a train step on many devices, compared with counts by hand."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from jaxhand import config as configs
from jaxhand import models, summary
from jaxhand.config import ConfigError
from jaxhand.training import cost, sharding
from jaxhand.training.step import Trainer

M = 256 * 256 * 4  # bytes of the matrix below; it is large enough to be split
V = 256 * 4  # bytes of the vector
SIDE = 16
FSDP = ["training.sharding=fsdp"]
AVERAGED = ["training.average_with_init=0.5", "training.init_from=runs/start"]
GPU = cost.Gpu(flops=1e9, memory=1e9, hbm=1e7, nvlink=1e6, network=1e5)


class Linear(nnx.Module):
    """A matrix and a vector, with the predictions of a hand."""

    loss_terms = ("joints_3d",)

    def __init__(self):
        self.layer = nnx.Linear(256, 256, rngs=nnx.Rngs(0))

    def __call__(self, batch, key=None):
        x = self.layer(batch["image"].reshape(len(batch["image"]), -1)[:, :256])
        return {"keypoints_3d": x[:, :63].reshape(-1, 21, 3)}


@pytest.fixture
def step_of(monkeypatch):
    """`cost.of_step` for a `Linear` and a batch of 64."""
    monkeypatch.setattr(models, "build", lambda config: Linear())

    def step_of(hosts, per_host, *overrides):
        small = [f"data.image_size={SIDE}", "training.batch_size=64", "optimizer.name=adamw"]
        return cost.of_step(configs.load(None, [*small, *overrides]), hosts, per_host)

    return step_of


def test_a_copied_state(step_of):
    step = step_of(2, 4)
    hand = SIDE**2 * (3 + 4) + 4 * (1 + 1 + 63 + 42 + 21 + 21 + 9 + 1 + 1)  # image, depth and labels
    assert step.memory["parameters"] == step.memory["gradients"] == M + V
    assert step.memory["optimizer"] - 2 * (M + V) in (4, 8)  # the moments, and the counts of the steps
    assert (step.memory["averages"], step.memory["parameters, gathered"], step.split) == (0, 0, 0)
    assert step.memory["batch"] == 8 * hand
    assert step.traffic == [cost.Traffic("all-reduce", 2 * 7 / 8 * (M + V), 8, 4)]
    assert step.flops == 3 * 2 * 256 * 256 * 8
    assert step_of(1, 1).traffic == []
    assert step_of(2, 4, "model.dtype=bfloat16").traffic == [cost.Traffic("all-reduce", 7 / 8 * (M + V), 8, 4)]


def test_a_split_state(step_of):
    step = step_of(2, 4, *FSDP, "training.ema=0.9")
    assert step.memory["parameters"] == step.memory["gradients"] == step.memory["averages"] == M / 8 + V
    assert step.memory["optimizer"] - 2 * (M / 8 + V) in (4, 8)
    assert step.memory["parameters, gathered"] == M and step.split == M / (M + V)
    assert step.traffic == [
        cost.Traffic("all-gather", 7 / 8 * M, 8, 4),
        cost.Traffic("reduce-scatter", 7 / 8 * M, 8, 4),
        cost.Traffic("all-reduce", 2 * 7 / 8 * V, 8, 4),
    ]


def test_parts_groups_averages_and_frozen_parameters(step_of):
    step = step_of(2, 4, *FSDP, "training.mesh.fsdp=2", "training.accumulate=2", *AVERAGED)
    assert step.memory["averages"] == 2 * (M / 2 + V) and step.memory["gradients"] == 2 * (M / 2 + V)
    assert step.traffic == [
        cost.Traffic("all-gather", 1 / 2 * M, 2, 2),
        cost.Traffic("reduce-scatter", 2 * 1 / 2 * M, 2, 2),
        cost.Traffic("all-reduce", 2 * 2 * 3 / 4 * M / 2, 4, 2),
        cost.Traffic("all-reduce", 2 * 2 * 7 / 8 * V, 8, 4),
    ]
    assert step.memory["activations"] * 2 == step_of(2, 4, *FSDP).memory["activations"]
    frozen = step_of(2, 4, *FSDP, "optimizer.rates.layer/kernel=0")
    assert frozen.memory["gradients"] == V
    assert [each.collective for each in frozen.traffic] == ["all-gather", "all-reduce"]


def test_the_time_of_a_step():
    memory = {"parameters": 10**6, "gradients": 10**6, "optimizer": 2 * 10**6, "averages": 0, "activations": 10**9}
    traffic = [cost.Traffic("all-reduce", 1e6, 4, 4), cost.Traffic("all-gather", 1e6, 8, 4)]
    step = cost.Step(8, memory, traffic, flops=10**9, split=0, batch_size=8, half=True)
    times = cost.seconds(step, GPU, mfu=0.5)
    assert times == pytest.approx({"compute": 2, "update": 0.7, "communication": 1 + 2.5, "least": 4.2, "most": 6.2})
    one_each = cost.Traffic("all-reduce", 1e6, 4, 1)
    assert cost.bandwidth(one_each, GPU) == GPU.network


def test_the_state_of_a_real_step(tiny_yaml):
    """The arrays on the first of four devices have the sizes that were computed."""
    config = configs.load(tiny_yaml, [*FSDP, "training.ema=0.9"])
    state = Trainer(config, sharding.make_mesh(config.training), total_steps=2).init()
    held = {
        name: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
        for name, tree in state.items()
    }
    memory = cost.of_step(config, 1, 4).memory
    assert held["params"] + held["batch_stats"] == memory["parameters"]
    assert held["optimizer"] == memory["optimizer"] + memory["averages"]


def test_a_batch_or_a_mesh_that_does_not_fit(step_of):
    with pytest.raises(ConfigError, match=r"training.batch_size 64 cannot be split over 24 devices; try 72"):
        step_of(3, 8)
    with pytest.raises(ConfigError, match=r"must be the number of devices, 4"):
        step_of(1, 4, *FSDP, "training.mesh.fsdp=8")


def test_the_command(tiny_yaml, capsys):
    command = [str(tiny_yaml), "--devices", "1,2x4", "--gpu", "h200"]
    assert summary.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    table = {line.strip().split("  ")[0]: line.split()[-2:] for line in lines if "  " in line}
    assert table["devices"] == ["1", "2x4"] and table["fits"] == ["yes", "yes"]
    assert any("not checked against a GPU" in line for line in lines)

    assert summary.main([*command, "--json", *FSDP]) == 0
    report = json.loads(capsys.readouterr().out)
    first, second = report["layouts"]
    assert not report["checked_against_a_gpu"] and report["gpu"]["memory"] == 141e9
    assert (first["devices"], second["devices"]) == (1, 8) and first["efficiency"] == [1, 1]
    assert second["memory"]["total"] == sum(size for name, size in second["memory"].items() if name != "total")
    np.testing.assert_allclose(second["images_per_second"][0], 8 / second["seconds"]["most"])

    total = first["memory"]["total"] / 1e9
    for share, fits in ((0.7, "yes"), (0.9, "barely"), (1.1, "no")):
        limits = ["--device-memory", str(total / share), "--flops", "100", "--network", "7"]
        assert summary.main([str(tiny_yaml), "--devices", "1", "--json", *FSDP, *limits]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["layouts"][0]["fits"] == fits
        assert (report["gpu"]["flops"], report["gpu"]["network"]) == (200e12, 7e9)  # float32 has half of the peak


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "8x"], "'8x' is not a number of devices, such as 8, or 8x4 for 8 hosts with 4"),
        (["--devices", "0"], "'0' is not a number of devices"),
        (["--devices", "8", "--mfu", "fast"], "'fast' is not a positive number"),
        (["--devices", "8", "--mfu", "1.5"], "'1.5' is above 1, the whole peak"),
        (["--device-memory", "80"], "--device-memory needs --devices"),
        (["--compiled"], "--compiled needs --devices"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        summary.main(["quickstart", *arguments])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_a_batch_that_does_not_fit_is_one_line(tiny_yaml, capsys):
    assert summary.main([str(tiny_yaml), "--devices", "3"]) == 2
    assert capsys.readouterr().err == "error: training.batch_size 8 cannot be split over 3 devices; try 9\n"
