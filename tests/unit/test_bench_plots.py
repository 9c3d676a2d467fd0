"""The benchmarks' pictures show what their tables say."""

import os
import subprocess
import sys

import pytest

from noprop_dist.bench.device import DeviceRow, device_figure
from noprop_dist.bench.dispatch import DispatchRow, dispatch_figure
from noprop_dist.bench.harness import Spread
from noprop_dist.bench.memory import MemoryRow, memory_figure
from noprop_dist.bench.scaling import ScalingRow, scaling_figure
from noprop_dist.bench.soak import DRIVER, GCS, MIB, Soak, SoakSample, private_bytes, soak_figure
from noprop_dist.cli.app import main
from noprop_dist.cli.tables import draw


def test_dispatch_shows_the_bound_that_it_is_held_to():
    rows = [DispatchRow(T, 2, Spread([4e5, 5e5, 6e5]), 1e3, 2.0, 20.0, 200.0) for T in (10, 1000)]
    axes, cpu = dispatch_figure(rows).axes
    assert list(axes.lines[0].get_xdata()) == list(cpu.lines[0].get_xdata()) == [10, 1000]
    assert list(cpu.lines[0].get_ydata()) == [200.0, 200.0]
    bound = next(line for line in axes.lines if line.get_label() == "1.25 × that of 10 blocks")
    assert set(bound.get_ydata()) == {2.5}


def test_scaling_has_an_ideal_beside_every_kind():
    rows = [
        ScalingRow(kind, n, Spread([49.0 * n]), ideal=50.0 * n, percent_of_ideal=98.0)
        for kind in ("digits", "sleeping")
        for n in (1, 2)
    ]
    (axes,) = scaling_figure(rows).axes
    assert [line.get_label() for line in axes.lines] == ["digits", "digits, ideal", "sleeping", "sleeping, ideal"]
    assert list(axes.lines[1].get_ydata()) == [50, 100]


def test_memory_and_ways_are_drawn_to_scale():
    (axes,) = memory_figure([MemoryRow(T, 700, 70 * T, [700], [70 * T]) for T in (10, 50)]).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[700, 700], [700, 3500]]
    way = DeviceRow("plain loop", "float32", Spread([8, 10, 11]), 1.0, 5.0, 50.0, 0.1)
    (axes,) = device_figure([way]).axes
    assert [bar.get_width() for bar in axes.patches] == [10]
    assert axes.get_xlim()[0] <= 0


def test_a_soak_shows_how_fast_each_process_grew_in_the_second_half():
    grows = [10, 20, 30, 30, 32, 34]
    samples = [SoakSample(600.0 * i, {GCS: mib * MIB, DRIVER: 5 * MIB}) for i, mib in enumerate(grows)]
    soak = Soak(samples, rounds_per_second=20.0)
    assert [(row.role, row.mib_per_hour) for row in soak.rows] == [(GCS, pytest.approx(12)), (DRIVER, pytest.approx(0))]
    (axes,) = soak_figure(soak).axes
    assert list(axes.lines[0].get_ydata()) == grows
    assert axes.lines[0].get_label() == "Ray's GCS (+12.0 MiB/h)"


def test_memory_is_that_of_all_processes_below_one():
    sleeping = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", "noprop_dist train"]
    with subprocess.Popen(sleeping, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        found = private_bytes(os.getpid())
        process.stdin.close()
    assert found[DRIVER] > MIB


def test_a_picture_is_only_drawn_where_there_is_a_place_for_it(tmp_path, capsys):
    draw(None, memory_figure, [])
    draw(tmp_path / "memory.png", memory_figure, [MemoryRow(1, 1, 2, [1], [2])])
    assert (tmp_path / "memory.png").stat().st_size > 1000
    with pytest.raises(SystemExit) as end:
        main(["bench", "dispatch", "--plot", "/nowhere/dispatch.png"])
    assert end.value.code == 2
    assert "--plot /nowhere/dispatch.png: there is no folder /nowhere" in " ".join(capsys.readouterr().err.split())
