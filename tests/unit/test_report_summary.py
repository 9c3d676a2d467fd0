"""Figures that follow from a run's records, whichever version wrote them."""

import json

import pytest

import noprop_dist
from noprop_dist.cli.inspect import show_run
from noprop_dist.cli.report import write_report
from noprop_dist.records import EmbeddingUpdated, Evaluated, RoundDone, from_line
from noprop_dist.reporting.plots import accuracy_over_steps, embedding_over_steps, loss_over_steps
from noprop_dist.reporting.summary import busy_seconds, latest_metrics
from noprop_dist.stages import CLASSIFIER, EMBEDDING, NETWORK, block


def round_done(stage, step=10, time=10.0, seconds=1.0, error=0.5):
    return RoundDone(stage=stage, first_step=step - 10, steps=10, step=step, loss=0.1, error=error, gradient_norm=1.0,
                     seconds=seconds, time=time)  # fmt: skip


def evaluated(step, sampler):
    return Evaluated(step=step, final=False, split="test", accuracy=0.9, nearest_embedding_accuracy=0.9,
                     sampler=sampler, passes=1, samples=10)  # fmt: skip


def updated(step, norm=2.0):
    return EmbeddingUpdated(first_step=step - 10, steps=10, step=step, mean_norm=norm, least_distance=0.5,
                            gradient_norm=1.0, seconds=0.1)  # fmt: skip


def test_training_time_leaves_out_interruptions_and_counts_nothing_twice():
    rounds = [round_done(block(1), time=t, seconds=s) for t, s in ((10, 4), (9, 2), (12, 1), (1000, 3))]
    assert busy_seconds(rounds) == 4 + 1 + 3


def test_the_latest_metrics_are_each_stages_last_round_and_the_last_checkpoints_figures():
    last = round_done(block(1), step=20)
    records = [round_done(block(1)), evaluated(10, "mean"), last, updated(20), evaluated(20, "mean"),
               evaluated(20, "stochastic")]  # fmt: skip
    latest = latest_metrics(records)
    assert latest.stages == {block(1): last, EMBEDDING: updated(20)}
    assert [each.sampler for each in latest.evaluations] == ["mean", "stochastic"]
    assert latest.objective is None
    assert latest_metrics([]).evaluations == ()


def test_the_losses_of_blocks_are_drawn_in_their_order():
    records = [round_done(stage, step=step) for step in (10, 20) for stage in (block(10), block(2), CLASSIFIER)]
    left, right = loss_over_steps(records).axes
    assert [line.get_label() for line in left.lines] == ["block 2", "block 10"]
    assert list(right.lines[0].get_xdata()) == [5, 15]
    (axes,) = loss_over_steps([round_done(NETWORK)]).axes
    assert axes.get_title() == "Network, end to end"


def test_w_embed_is_drawn_by_its_norm_and_least_distance():
    (axes,) = embedding_over_steps([updated(10, 2.0), updated(20, 3.0)]).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[2.0, 3.0], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("figure", "values"),
    [(accuracy_over_steps([evaluated(10, "mean")]), ["test (mean): 90"]),
     (embedding_over_steps([updated(10)]), ["mean length ‖u_y‖: 2", "least distance of two classes: 0.5"]),
     (loss_over_steps([round_done(NETWORK)]), ["0.5"])],
)  # fmt: skip
def test_a_single_point_is_a_marker_with_its_value_on_axes_that_show_how_far_it_is(figure, values):
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == values
    assert {line.get_marker() for line in axes.lines} == {"o"}
    assert axes.get_xlim()[0] == 0
    low, high = axes.get_ylim()
    assert low == 0 or high > 3 * low


def as_written_before(line):
    """A line of metrics.jsonl as it was before stages were objects and updates of W_embed a kind of their own."""
    values = json.loads(line)
    if values["kind"] == "embedding":
        figures = {"loss": values.pop("mean_norm"), "error": values.pop("least_distance"), "peak_memory_bytes": 0}
        values = {**values, **figures, "kind": "round", "stage": "embedding"}
    elif isinstance(values.get("stage"), dict):
        kind, index = values["stage"]["kind"], values["stage"]["index"]
        values["stage"] = f"block {index}" if kind == "block" else kind
    return json.dumps({name: value for name, value in values.items() if value is not None}) + "\n"


@pytest.fixture
def old_run(small_run, tmp_path):
    """A run of a learned W_embed whose metrics.jsonl is in the old form."""
    run = small_run("embedding={kind: learned, dim: 20, sync_steps: 4}")
    file = tmp_path / "run/metrics.jsonl"
    file.write_text("".join(as_written_before(line) for line in file.read_text().splitlines()))
    assert "block 2" in file.read_text()
    return run


@pytest.mark.usefixtures("undrawn")
def test_a_run_directory_of_an_earlier_version_is_reported_and_inspected(old_run, tmp_path, capsys):
    write_report(str(old_run), data_root=None, trust_code=False)
    plots = {file.stem for file in (tmp_path / "run/plots").glob("*.png")}
    assert plots == {"accuracy", "denoising", "embedding", "loss", "parts", "path", "terms"}
    capsys.readouterr()
    show_run(str(old_run), as_json=True)
    whole = json.loads(capsys.readouterr().out)
    assert [each["block"] for each in whole["blocks"]] == [1, 2, 3]
    assert whole["metrics"]["stages"]["block 2"]["stage"] == "block 2"
    assert whole["metrics"]["stages"]["block 2"]["step"] == 12
    assert whole["metrics"]["stages"]["embedding"]["mean_norm"] > 0
    assert {each["split"] for each in whole["metrics"]["evaluations"]} == {"validation", "test"}


def test_a_report_counts_the_seconds_in_which_a_stage_trained_and_tells_of_damage(small_run, tmp_path):
    run, file = small_run(), tmp_path / "run/metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for number, line in enumerate(line for line in lines if line["kind"] == "round"):
        line["seconds"], line["time"] = 2.0, 1000.0 * number  # as if it had been interrupted after every round
    file.write_text("".join(f"{json.dumps(line)}\n" for line in [*lines, {"kind": "news", "text": 3}]))
    notes, (figures,) = noprop_dist.report(str(run)).notes, noprop_dist.compare([str(run)]).runs
    assert f" in {figures.training_seconds:.1f} s of training" in (tmp_path / "run/report.html").read_text()
    assert notes == (f"{run}: 1 line(s) of metrics.jsonl are damaged; a resume sets them aside",)


def test_figures_that_cannot_be_drawn_are_left_out_with_a_word(small_run, tmp_path):
    run = small_run()
    file = tmp_path / "run/metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "objective":
            line["squared_errors"] = [1.0]
        if line["kind"] == "round":
            line["error"] = 1e308
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    told = noprop_dist.report(str(run)).notes
    assert [note.split(" is left out, for its figures cannot be drawn: ")[0] for note in told] == [
        "plots/loss.png",
        "plots/denoising.png",
    ]
    assert {each.stem for each in (tmp_path / "run/plots").iterdir()} == {"accuracy", "parts", "path", "terms"}


def test_a_line_that_cannot_be_read_is_no_metric():
    lines = ['{"kind": "from a later version"}', "half a li"]
    assert latest_metrics([from_line(line) for line in lines]).stages == {}
