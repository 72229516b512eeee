"""The cost of a model, compared with counts by hand."""

import json

import pytest
from flax import nnx

from jaxhand import config as configs
from jaxhand import models
from jaxhand.config import ViTConfig
from jaxhand.models import summary
from jaxhand.models.vit import ViT

ROWS = 2
TINY = ["data.image_size=16", f"training.batch_size={ROWS}", "model.width=8", "model.joint_width=8"]


class Probe(nnx.Module):
    """One of each kind of part; `unused` comes first and is never called."""

    def __init__(self, rngs, remat=False):
        self.a_unused = nnx.Param(rngs.normal((5,)))
        self.vit = ViT(ViTConfig(width=32, depth=3, heads=2, patch=4), (16, 16), remat=remat, rngs=rngs)
        self.conv = nnx.Conv(32, 8, (3, 3), strides=2, feature_group_count=4, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 6, (4, 4), strides=(2, 2), rngs=rngs)
        self.same = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(3)])
        self.tapered = nnx.List([nnx.Linear(n, n - 1, rngs=rngs) for n in (6, 5)])

    def __call__(self, batch, key=None):
        x = self.up(self.conv(self.vit(batch["image"]).reshape(-1, 4, 4, 32)))  # (B, 4, 4, 6)
        for layer in (*self.same, *self.tapered):
            x = layer(x)
        return {"x": x @ x.mT}


@pytest.fixture
def rows_of(monkeypatch):
    """The rows of `summarize` for a `Probe`: (part, count) → row."""

    def rows_of(**options):
        monkeypatch.setattr(models, "build", lambda config: Probe(nnx.Rngs(0), **options))
        return by_part(summary.summarize(configs.load(None, TINY)))

    return rows_of


def by_part(rows):
    return {(row["part"], row.get("count", 1)): row for row in rows}


def test_parts_come_in_the_order_of_use_and_add_up(rows_of):
    rows = rows_of()
    parts = [("vit", 1), ("conv", 1), ("up", 1), ("same", 1), ("tapered", 1), ("a_unused", 1), ("(between)", 1)]
    assert [key for key in rows if key[1] == 1] == [*parts, ("total", 1)]
    assert [key for key in rows if key[1] != 1] == [("vit.encoder.blocks", 3), ("same", 3)]
    for key in ("parameters", "flops", "activations"):
        assert sum(rows[part][key] for part in parts) == rows["total", 1][key]
        assert rows["same", 3][key] * 3 == rows["same", 1][key] > 0
    assert rows["a_unused", 1] == {"part": "a_unused", "parameters": 5, "flops": 0, "activations": 0}


def test_a_vit_against_its_formula(rows_of):
    rows, T, E = rows_of(), 16, 32
    block, vit = rows["vit.encoder.blocks", 3], rows["vit", 1]
    assert block["flops"] == 24 * T * E**2 + 4 * T**2 * E
    assert vit["flops"] == 3 * block["flops"] + 2 * T * 48 * E
    assert block["parameters"] == 12 * E**2 + 13 * E
    assert vit["parameters"] == 3 * block["parameters"] + (48 * E + E) + T * E + 2 * E
    assert block["activations"] == ROWS * T * 9 * E * 4  # inputs, and outputs of the products qkv, proj and fc1
    again = rows_of(remat=True)
    assert again["vit.encoder.blocks", 3]["activations"] == ROWS * T * E * 4
    assert again["vit.encoder.blocks", 3]["flops"] == block["flops"]


def test_convolutions_and_products_by_hand(rows_of):
    rows = rows_of()
    assert rows["conv", 1]["flops"] == 2 * (2 * 2 * 8) * (3 * 3 * 8)  # 8 of 32 channels per group
    assert rows["up", 1]["flops"] == 2 * (2 * 2 * 8) * (4 * 4 * 6)  # every input pixel times the complete kernel
    assert rows["tapered", 1]["flops"] == 2 * 16 * (6 * 5 + 5 * 4)
    assert rows["(between)", 1]["flops"] == 2 * 4 * 4 * 4 * 4


def test_the_default_network_by_hand():
    rows = by_part(summary.summarize(configs.load(None, ["training.batch_size=1"])))
    fine, coarse, joints, c = 16 * 16, 8 * 8, 21, 64  # cells of either grid, joints and their channels
    look = 3 * c + c * 128 + (4 * 12 * 12 + 2) * 128 + 128 * c + 2 * joints * 2 * c + 2 * (c * 2 * c) + c * 3
    expected = {
        "stem": fine * 64 * 64,
        "fine": fine * 2 * 64 * 64,
        "down": coarse * 256 * 128,
        "mixers": 4 * coarse * coarse * 128,
        "coarse": 4 * coarse * 2 * 128 * 128,
        "votes": coarse * 128 * joints * 4,
        "seen": joints * 128 * c,
        "looks": 2 * joints * look,
        "size": c,  # of their mean
        "(between)": joints * coarse * 128,  # the cells' votes weigh their channels
    }
    unlike = {key: (rows[key, 1]["flops"], 2 * n) for key, n in expected.items() if key != "(between)"}
    assert all(counted == by_hand for counted, by_hand in unlike.values()), unlike
    assert rows["(between)", 1]["flops"] == pytest.approx(2 * expected["(between)"], rel=0.05)  # and the camera's rays
    assert rows["total", 1]["flops"] == pytest.approx(2 * sum(expected.values()), rel=0.001)
    assert rows["total", 1]["parameters"] == 434_979
    assert rows["looks", 2]["parameters"] * 2 == rows["looks", 1]["parameters"]


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(summary, "_TIMED_S", 1e-9)
    path = tmp_path / "tiny.yaml"
    path.write_text("model: {blocks: 2, looks: 1}")
    assert summary.main([str(path), *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: dense, images of 16 px, float32"
    assert lines[2].split() == ["parameters", "GFLOPs", "activations"]
    total = next(line.split() for line in lines if line.startswith("total"))
    assert any(line.startswith("  coarse, one of 2  ") for line in lines)
    assert [line.partition(", on")[0] for line in lines[-2:]] == [f"Forward pass, batch of {n}" for n in (1, ROWS)]

    assert summary.main([str(path), *TINY, "--json", "--no-time"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parts"][-1]["parameters"] == int(total[1].replace(",", "")) and report["forward"] == []
    assert (report["model"], report["batch_size"], report["image_size"]) == ("dense", ROWS, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], "error: cannot read config missing.yaml: No such file or directory"),
        (["tiny.yaml", "model.nam=dense"], "error: tiny.yaml: unknown key 'model.nam'. Did you mean 'model.name'?"),
        (["tiny.yaml", "model.name=dens"], "error: model.name must be one of dense"),
        (["tiny.yaml", "data.image_size=60"], "error: data.image_size must be a multiple of 8"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text("")
    assert summary.main(arguments) == 2
    output, errors = capsys.readouterr()
    assert not output and errors.startswith(message) and errors.count("\n") == 1
