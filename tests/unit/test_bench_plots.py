"""The benchmarks' pictures show what their tables say."""

import pytest

from noprop_dist.bench import plots
from noprop_dist.cli.app import main
from noprop_dist.cli.bench_options import draw


def test_dispatch_shows_the_bound_that_it_is_held_to():
    rows = [{"blocks": T, "microseconds_per_block_step": 2.0, "least": 4e5, "most": 6e5} for T in (10, 200)]
    (axes,) = plots.dispatch_figure(rows).axes
    assert list(axes.lines[0].get_xdata()) == [10, 200]
    bound = next(line for line in axes.lines if line.get_label() == "1.25 × that of 10 blocks")
    assert set(bound.get_ydata()) == {2.5}


def test_scaling_has_an_ideal_beside_every_kind():
    rows = [
        {"kind": kind, "workers": n, "block_steps_per_second": 49.0 * n, "ideal": 50.0 * n}
        for kind in ("digits", "sleeping")
        for n in (1, 2)
    ]
    (axes,) = plots.scaling_figure(rows).axes
    assert [line.get_label() for line in axes.lines] == ["digits", "digits, ideal", "sleeping", "sleeping, ideal"]
    assert list(axes.lines[1].get_ydata()) == [50, 100]


def test_memory_and_ways_are_drawn_to_scale():
    (axes,) = plots.memory_figure(
        [{"blocks": T, "block_worker_mib": 700, "baseline_mib": 70 * T} for T in (10, 50)]
    ).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[700, 700], [700, 3500]]
    way = {"way": "plain loop", "precision": "float32", "times_plain": 1.0, "least": 8, "most": 11}
    (axes,) = plots.device_figure([way | {"block_steps_per_second": 10}]).axes
    assert [bar.get_width() for bar in axes.patches] == [10]
    assert axes.get_xlim()[0] <= 0


def test_a_picture_is_only_drawn_where_there_is_a_place_for_it(tmp_path, capsys):
    draw(None, plots.memory_figure, [])
    draw(tmp_path / "memory.png", plots.memory_figure, [{"blocks": 1, "block_worker_mib": 1, "baseline_mib": 2}])
    assert (tmp_path / "memory.png").stat().st_size > 1000
    with pytest.raises(SystemExit) as end:
        main(["bench", "dispatch", "--plot", "/nowhere/dispatch.png"])
    assert end.value.code == 2
    assert "--plot /nowhere/dispatch.png: there is no folder /nowhere" in " ".join(capsys.readouterr().err.split())
