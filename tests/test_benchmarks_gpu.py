"""The script of the GPU benchmarks on a CPU: every part has its rows, and no part starts without time."""

import pytest

from benchmarks import gpu


def table(text: str) -> list[list[str]]:
    """The cells of the rows below the table's header."""
    lines = text.partition(gpu.HEADER)[2].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line]


def test_without_time_every_part_is_skipped_with_a_line(capsys):
    gpu.main(["--small", "--minutes", "0"])
    rows = table(capsys.readouterr().out)
    assert [(row[0], row[-1]) for row in rows] == [(part.__name__, "skipped: no time left") for part in gpu.PARTS]


def test_the_limits_of_all_parts_fit_into_eight_minutes():
    assert sum(gpu.PARTS.values()) <= 8 * 60


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(capsys):
    gpu.main(["--small", "--minutes", "60"])
    rows = table(capsys.readouterr().out)
    timed = [row for row in rows if row[1]]
    assert all(len(row) == 5 and float(row[3].replace(",", "")) > 0 for row in timed)
    names = " ".join(row[0] for row in timed)
    for part in ("`jaxhand train` step", "inference", "quickstart", "fast_mesh", "PA-MPJPE", "synthetic set", "fsdp"):
        assert part in names
    assert all("PyTorch" in row[0] for row in rows if not row[1])
