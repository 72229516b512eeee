"""The collective operations of programs that JAX compiles here, of texts in the other forms, and of a whole step."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxhand import summary
from jaxhand.config import UserError
from jaxhand.training import collectives, compiled, cost
from jaxhand.training.collectives import Collective

EVERYONE = ((0, 1, 2, 3),)
ROWS, COLUMNS = ((0, 1), (2, 3)), ((0, 2), (1, 3))
MODEL = """
from flax import nnx

class Linear(nnx.Module):
    has_mesh, loss_terms = False, ("joints_3d",)

    def __init__(self, config, hand_model, rngs):
        self.layer = nnx.Linear(256, 256, rngs=rngs)

    def __call__(self, batch, key=None):
        x = self.layer(batch["image"].reshape(len(batch["image"]), -1)[:, :256])
        return {"keypoints_3d": x[:, :63].reshape(-1, 21, 3), "keypoints_2d": x[:, :42].reshape(-1, 21, 2)}
"""


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


def program(function, *arrays) -> list[Collective]:
    """Compile a function and read its program."""
    return collectives.read(jax.jit(function).lower(*arrays).compile().as_text())


def on_each(mesh, function, shape=(8,)) -> list[Collective]:
    """The operations of a function that each of four devices calls with an array of its own."""
    every = P(("x", "y"))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=every, out_specs=every, check_vma=False)
    array = jax.ShapeDtypeStruct((4 * shape[0], *shape[1:]), jnp.float32, sharding=NamedSharding(mesh, every))
    return program(mapped, array)


def test_each_kind(mesh):
    assert on_each(mesh, lambda x: jax.lax.psum(x, "y")) == [Collective("all-reduce", 32, ROWS, 1)]
    assert on_each(mesh, lambda x: jax.lax.psum(x, "x")) == [Collective("all-reduce", 32, COLUMNS, 1)]
    assert on_each(mesh, lambda x: jax.lax.all_gather(x, ("x", "y"))) == [Collective("all-gather", 32, EVERYONE, 1)]
    (found,) = on_each(mesh, lambda x: jax.lax.psum_scatter(x, "x", tiled=True))
    assert found == Collective("reduce-scatter", 32, COLUMNS, 1)
    found = on_each(mesh, lambda x: jax.lax.all_to_all(x, "y", 0, 0, tiled=True))
    assert {(each.kind, each.groups) for each in found} == {("all-to-all", ROWS)} and sum(e.size for e in found) == 32
    (found,) = on_each(mesh, lambda x: jax.lax.ppermute(x, "x", [(0, 1), (1, 1)][:1]))
    assert found == Collective("collective-permute", 32, ((0, 2), (1, 3)), 1)


def test_loops_multiply(mesh):
    def loops(x):
        add = lambda x, _: (jnp.sin(jax.lax.psum(x, "x")), None)  # noqa: E731
        outer = lambda x, _: (jax.lax.scan(add, jax.lax.psum(x, "y"), None, length=20)[0], None)  # noqa: E731
        return jax.lax.scan(outer, x, None, length=30)[0]

    assert set(on_each(mesh, loops)) == {
        Collective("all-reduce", 32, ROWS, 30),
        Collective("all-reduce", 32, COLUMNS, 600),
    }


def test_a_loop_or_a_branch_that_states_no_length(mesh):
    def until(x):
        return jax.lax.while_loop(lambda x: jnp.max(x) < 9, lambda x: jax.lax.psum(x, "x"), x)

    def branch(x):
        return jax.lax.cond(x[0] > 0, lambda x: jax.lax.psum(x, "x"), lambda x: x, x)

    for function in (until, branch):
        (found,) = on_each(mesh, function)
        assert found == Collective("all-reduce", 32, COLUMNS, None)
        assert compiled.traffic([found], per_host=4) == [cost.Traffic("all-reduce", 32, 2, 2)]


def gradient(mesh, dtype, whole=False) -> list[Collective]:
    """The operations of gradient descent on six matrices, each split over four devices, or updated `whole`."""
    apart = NamedSharding(mesh, P(None, ("x", "y")))
    together = NamedSharding(mesh, P())

    def loss(matrices, x):
        layer = lambda x, matrix: (jnp.tanh(x @ matrix.astype(dtype)), None)  # noqa: E731
        return jax.lax.scan(layer, x.astype(dtype), matrices)[0].astype(jnp.float32).sum()

    def step(matrices, x):
        change = jax.grad(loss)(jax.lax.with_sharding_constraint(matrices, together), x)
        return matrices - (change if whole else jax.lax.with_sharding_constraint(change, apart)), change

    out = (together, together) if whole else (apart, apart)
    matrices = jax.ShapeDtypeStruct((6, 64, 64), jnp.float32, sharding=apart)
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=NamedSharding(mesh, P(("x", "y"))))
    return program(jax.jit(step, out_shardings=out), matrices, x)


def test_gradients_of_which_a_device_keeps_its_own_part(mesh):
    gathered, *summed = sorted(gradient(mesh, jnp.float32), key=lambda each: each.kind)
    assert gathered == Collective("all-gather", 6 * 64 * 64, EVERYONE, 1)
    assert summed == [Collective("all-reduce", 4 * 64 * 64, EVERYONE, 6, sliced=True)]
    assert compiled.traffic(summed, 4) == [cost.Traffic("reduce-scatter", 3 / 4 * 6 * 4 * 64 * 64, 4, 4)]
    assert compiled.traffic(summed, 2, on_cpu=True) == [cost.Traffic("all-reduce", 6 / 4 * 6 * 4 * 64 * 64, 4, 2)]


def test_gradients_of_bfloat16(mesh):
    (summed,) = (each for each in gradient(mesh, jnp.bfloat16) if each.kind == "all-reduce")
    assert summed == Collective("all-reduce", 4 * 64 * 64, EVERYONE, 6, sliced=True, rounded=True)
    assert compiled.traffic([summed], 4) == [cost.Traffic("reduce-scatter", 3 / 4 * 6 * 2 * 64 * 64, 4, 4)]


def test_gradients_that_are_used_whole(mesh):
    summed = [each for each in gradient(mesh, jnp.float32, whole=True) if each.kind == "all-reduce"]
    assert summed and not any(each.sliced or each.rounded for each in summed)


def operation(text: str) -> list[Collective]:
    """The operations of a program of eight devices with one line."""
    header = "HloModule step, is_scheduled=true, num_partitions=8\n\n%add (x: f32[], y: f32[]) -> f32[] {\n}"
    entry = "ENTRY %main (a: f32[8,4], b: bf16[6]) -> f32[8,4] {"
    parameters = '  %a = f32[8,4]{1,0:T(8,128)} parameter(0)\n  %b = bf16[6]{0} parameter(1), metadata={op_name="b"}'
    return collectives.read(f"{header}\n\n{entry}\n{parameters}\n  {text}\n}}\n")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("{}", (tuple(range(8)),)),
        ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['data'=2,'fsdp'=4] {'fsdp'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['data'=2,'fsdp'=4] {'data','fsdp'}", (tuple(range(8)),)),
        ("mesh['data'=2,'fsdp'=4] {'fsdp','data'}", ((0, 4, 1, 5, 2, 6, 3, 7),)),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
    ],
)
def test_forms_of_groups(groups, expected):
    line = f"ROOT %r = f32[8,4]{{1,0}} all-reduce(%a), channel_id=1, replica_groups={groups}, to_apply=%add"
    assert operation(line) == [Collective("all-reduce", 128, expected, 1)]


def test_groups_of_one_device_and_of_an_unknown_form():
    assert operation("ROOT %r = f32[8,4]{1,0} all-reduce(%a), replica_groups=[8,1]<=[8], to_apply=%add") == []
    assert operation("ROOT %r = f32[8,4]{1,0} all-reduce(%a), replica_groups=mesh['a'=8] {}, to_apply=%add") == []
    for groups in ("mesh['a'=8] {'a':(2)4}", "new[8]"):
        with pytest.raises(ValueError, match="these groups of devices cannot be read: %a"):
            operation(f"ROOT %r = f32[8,4]{{1,0}} all-reduce(%a), replica_groups={groups}, to_apply=%add")
    with pytest.raises(ValueError, match="not an HLO program"):
        collectives.read("a text")


def test_operations_that_start_and_end_and_combine_arrays():
    groups = "replica_groups=[1,8]<=[8]"
    eight = (tuple(range(8)),)
    gathers = "((f32[8,4]{1,0}, bf16[6]{0}), (f32[64,4]{1,0}, /*index=1*/bf16[48]{0})) all-gather-start(%a, %b)"
    assert operation(f"%s = {gathers}, {groups}, dimensions={{0}}") == [
        Collective("all-gather", 128, eight, 1),
        Collective("all-gather", 12, eight, 1),
    ]
    scatters = "((f32[8,4]{1,0}), f32[1,4]{1,0}) reduce-scatter-start(%a)"
    done = "%d = f32[1,4]{1,0} reduce-scatter-done(%s)"
    assert operation(f"%s = {scatters}, {groups}, to_apply=%add\n  {done}") == [
        Collective("reduce-scatter", 128, eight, 1)
    ]
    moves = (
        "(bf16[6]{0}, bf16[6]{0}, u32[], u32[]) collective-permute-start(%b), source_target_pairs={{0,1},{2,2},{4,3}}"
    )
    assert operation(f"%s = {moves}") == [Collective("collective-permute", 12, ((0, 1), (4, 3)), 1)]


def test_an_operation_between_hosts():
    """Of a group that is spread over most hosts, fewest devices share a host."""
    each = functools.partial(Collective, "all-gather", 10, times=3)
    assert compiled.traffic([each(((0, 1, 2, 3), (4, 5, 6, 7)))], 4) == [cost.Traffic("all-gather", 90, 4, 4)]
    assert compiled.traffic([each(((0, 4), (1, 5)))], 4) == [cost.Traffic("all-gather", 30, 2, 1)]
    assert compiled.traffic([each((tuple(range(8)),))], 2) == [cost.Traffic("all-gather", 210, 8, 2)]


def test_the_command(tmp_path, monkeypatch, capsys):
    """A model of the user in the current folder, split over four devices: the shapes and the program say the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(MODEL)
    (tmp_path / "toy.yaml").write_text(
        "model: {name: 'toy:Linear'}\ndata: {image_size: 16}\n"
        "training: {batch_size: 64, sharding: fsdp}\noptimizer: {name: adamw}\n"
    )
    assert summary.main(["toy.yaml", "--devices", "1,2x2", "--compiled", "--json"]) == 0
    one, four = json.loads(capsys.readouterr().out)["layouts"]
    assert one["compiled"]["sent_on_cpus"] == 0 and four["compiled"]["in_unknown_loops"] == 0
    sent, read = four["sent"], four["compiled"]["sent"]
    for kind in ("all-gather", "reduce-scatter"):
        assert sent[kind] == read[kind] == 3 / 4 * 4 * 256 * 256
    assert sent["all-reduce"] == 6 / 4 * 4 * 256 <= read["all-reduce"] < sent["all-reduce"] + 200  # and the losses
    assert four["compiled"]["sent_on_cpus"] == sum(read.values()) + read["reduce-scatter"]

    again = [Collective("all-gather", 10**6, (tuple(range(4)),), None)]
    monkeypatch.setattr(compiled, "of_step", lambda config, overrides, devices: again)
    assert summary.main(["toy.yaml", "--devices", "2x2", "--compiled"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("the same, read from the program*") + 2].split() == ["all-gather", "0.003"]
    assert lines[-1].startswith("* At least:") and lines[-1].endswith(": 1.")
    assert any(line.startswith("Read from the program:") for line in lines)


def test_a_step_that_is_not_compiled(monkeypatch, capsys):
    monkeypatch.setattr(compiled, "_PROGRAM", "import sys; sys.exit('first line\\nout of luck')")
    assert summary.main(["quickstart", "--devices", "2", "--compiled"]) == 2
    assert capsys.readouterr().err == "error: the train step was not compiled for 2 devices: out of luck\n"
    monkeypatch.setattr(compiled, "_PROGRAM", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match="got signal 9, as when memory runs out"):
        compiled.of_step("quickstart", [], 2)
    monkeypatch.setattr(compiled, "_PROGRAM", "print('no program')")
    with pytest.raises(UserError, match="the program for 2 devices cannot be read: the text is not an HLO program"):
        compiled.of_step("quickstart", [], 2)
    monkeypatch.setattr(compiled, "LIMIT_S", 0.1)
    monkeypatch.setattr(compiled, "_PROGRAM", "import time; time.sleep(9)")
    with pytest.raises(UserError, match=r"for 2 devices within 0.1 s; leave out --compiled"):
        compiled.of_step("quickstart", [], 2)
    with pytest.raises(SystemExit):
        summary.main(["quickstart", "--compiled"])
    assert "--compiled needs --devices" in capsys.readouterr().err
