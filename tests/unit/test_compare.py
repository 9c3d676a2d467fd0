"""`compare`: runs side by side, with the figures that their records have."""

import json
import math
import shutil
from itertools import pairwise

import numpy as np
import pytest
from end_to_end_run import trained_end_to_end
from untrained import OWN, OwnNetwork

import noprop_dist
from noprop_dist.baseline.network import end_to_end_network
from noprop_dist.cli.app import main
from noprop_dist.records import Evaluated, RoundDone
from noprop_dist.reporting.comparison import Row
from noprop_dist.reporting.summary import busy_seconds, busy_seconds_to
from noprop_dist.reporting.tables import Mean, markdown_table
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.setup import prepare

EVERY_THIRD = "checkpoint.every_steps=3"


@pytest.fixture
def noprop(capsys):
    def run(*arguments, code=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert end.value.code == code, captured.err
        return captured.out if code == 0 else captured.err

    return run


def compared(*runs, **options):
    return noprop_dist.compare([run.root if isinstance(run, RunDirectory) else str(run) for run in runs], **options)


def lines_of(run, kind):
    lines = (run.local_root / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


def cut_short(run, step):
    """The run as it was when it had come to a checkpoint."""
    file = run.local_root / "metrics.jsonl"
    kept = [line for line in file.read_text().splitlines() if json.loads(line).get("step", 0) <= step]
    file.write_text("".join(f"{line}\n" for line in kept))
    for folder in (run.local_root / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    return RunDirectory(run.root)


def seconds_with_work(rounds):
    """Seconds by the clock in which a round was under way: a sum over all begins and ends."""
    moments = sorted([(each["time"] - each["seconds"], 1) for each in rounds] + [(each["time"], -1) for each in rounds])
    busy, under_way = 0.0, 0
    for (now, change), (then, _) in pairwise([*moments, (moments[-1][0], 0)]):
        under_way += change
        busy += (then - now) * (under_way > 0)
    return busy


def parameters(module):
    return sum(each.numel() for each in module.parameters() if each.requires_grad)


def test_figures_are_those_of_the_records_and_of_the_network(copied_run):
    run = copied_run()
    (figures,) = compared(run).runs
    rounds, (objective,) = lines_of(run, "round"), [each for each in lines_of(run, "objective") if each["final"]]
    final = {(each["split"], each["sampler"]): each for each in lines_of(run, "evaluation") if each["final"]}
    plan = RunPlan(run.config(), run.facts())
    assert (figures.name, figures.path, figures.method, figures.seed, figures.blocks) == (
        *("run", run.root, "noprop", 0, 3),
    )
    assert (figures.steps, figures.total_steps, figures.finished, figures.evaluated_step) == (12, 12, True, 12)
    assert figures.epochs == 12 / plan.steps_per_epoch
    assert figures.block_steps == sum(each["steps"] for each in rounds if each["stage_id"][0] == "block") == 36
    assert figures.training_seconds == pytest.approx(seconds_with_work(rounds), abs=1e-5)
    assert figures.block_steps_per_second == pytest.approx(36 / figures.training_seconds)
    assert figures.peak_memory_bytes == max(each["peak_memory_bytes"] for each in rounds)
    assert figures.test_accuracy == final["test", "mean"]["accuracy"]
    assert figures.test_accuracy_stochastic == final["test", "stochastic"]["accuracy"]
    assert figures.validation_accuracy == final["validation", "mean"]["accuracy"]
    assert (figures.test_samples, figures.test_set) == (359, 359)
    assert figures.elbo == objective["elbo"]
    assert figures.block_parameters == parameters(plan.block_network(1))
    assert figures.parameters == 3 * figures.block_parameters + parameters(plan.classifier())
    assert figures.device == "cpu"


def test_the_curve_has_every_checkpoint_and_ends_with_all_seconds_of_training(copied_run):
    run = copied_run(EVERY_THIRD)
    (figures,) = compared(run).runs
    tests = [each for each in lines_of(run, "evaluation") if (each["split"], each["sampler"]) == ("test", "mean")]
    assert [(each.step, each.test_accuracy) for each in figures.curve] == [
        (each["step"], each["accuracy"]) for each in tests
    ]
    seconds = [each.training_seconds for each in figures.curve]
    assert 0 < seconds[0] < seconds[1]
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(figures.training_seconds)


def test_seconds_to_a_step_end_with_the_last_stage_and_leave_out_interruptions():
    def done(stage, step, time):
        return RoundDone(stage=stage, first_step=step - 10, steps=10, step=step, loss=0.1, error=0.1, gradient_norm=1.0,
                         seconds=2.0, time=time)  # fmt: skip

    rounds = [done(block(1), 10, 102.0), done(block(2), 10, 103.0), done(block(1), 20, 1002.0)]
    assert busy_seconds(rounds) == 5.0
    assert busy_seconds_to([10, 20], rounds) == {10: 3.0}, "block 2 has not come to step 20"
    assert busy_seconds_to([10], []) == {}


def test_the_parameters_of_a_learned_embedding_count(copied_run):
    whole, learned = (compared(copied_run(*settings, name=name)).runs[0] for name, settings in (
        ("onehot", ()), ("learned", ["embedding={kind: learned, dim: 20, sync_steps: 4}"]),
    ))  # fmt: skip
    plan = RunPlan(*(getattr(RunDirectory(learned.path), part)() for part in ("config", "facts")))
    expected = 3 * parameters(plan.block_network(1)) + parameters(plan.classifier()) + 10 * 20
    assert learned.parameters == expected != whole.parameters
    assert (learned.steps, learned.block_steps) == (12, 36)


def test_the_weights_of_a_network_of_ones_own_are_counted_and_it_is_not_imported(copied_run, monkeypatch):
    run = copied_run(OWN)

    def never(*_, **__):
        raise AssertionError("a network was built or looked for")

    for place in ("run_plan.build_network", "run_plan.source_of", "models.custom.locate"):
        monkeypatch.setattr(f"noprop_dist.{place}", never)
    (figures,) = compared(run).runs
    assert figures.block_parameters == parameters(OwnNetwork((1, 8, 8), 10, 10, width=6))
    assert "file of untrained:OwnNetwork" in figures.settings


def test_a_run_that_is_not_at_its_end_says_how_far_it_is_and_on_how_many_samples_it_was_measured(copied_run, noprop):
    run = cut_short(copied_run("evaluation.samples=50", EVERY_THIRD), 9)
    (figures,) = compared(run).runs
    assert (figures.steps, figures.total_steps, figures.finished, figures.block_steps) == (9, 12, False, 27)
    assert (figures.test_samples, figures.test_set, figures.test_accuracy_stochastic) == (50, 359, None)
    assert figures.parameters is not None
    text = noprop("compare", run.root)
    assert "9 of 12" in text
    assert f"{figures.test_accuracy:.2%}".removesuffix("%") + " (n = 50)" in text
    assert "stochastic" not in text, "no run has that figure"


def test_a_run_that_has_only_begun_has_empty_cells_beside_another(small_config, copied_run, tmp_path, noprop):
    setup, _ = prepare(small_config("seed=7"))
    RunDirectory(str(tmp_path / "begun")).create(setup.plan.config, setup.plan.facts)
    begun, whole = compared(tmp_path / "begun", copied_run()).runs
    assert (begun.steps, begun.finished, begun.block_steps, begun.training_seconds) == (0, False, 0, None)
    for name in ("test_accuracy", "elbo", "peak_memory_bytes", "parameters", "block_steps_per_second", "device"):
        assert getattr(begun, name) is None
        assert getattr(whole, name) is not None
    assert "0 of 12" in noprop("compare", tmp_path / "begun", whole.path)


def test_damaged_weights_and_lines_leave_the_rest_of_the_table(copied_run, capsys):
    run = copied_run()
    (run.local_root / "checkpoints/step-00000012/classifier.safetensors").write_bytes(b"")
    with (run.local_root / "metrics.jsonl").open("a") as file:
        file.write("{\n")
    comparison = compared(run)
    assert comparison.runs[0].parameters is None
    assert comparison.runs[0].test_accuracy is not None
    lines, weights = comparison.warnings
    assert lines.endswith("1 line(s) of metrics.jsonl are damaged; a resume sets them aside")
    assert "classifier.safetensors of step 12 is damaged" in weights
    with pytest.raises(SystemExit):
        main(["compare", run.root])
    assert weights in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "nowhere"], "nowhere: holds no run (there is no config.yaml)"),
        (["RUN", "--sort", "luck"], "sort=luck: is no figure and no setting that differs; allowed are test_accuracy, "),
        (["RUN", "--json", "--markdown"], "--markdown and --json: only one of them"),
        (["RUN", "--plot", "nowhere/a.png"], "--plot nowhere/a.png: there is no folder nowhere"),
        (
            ["RUN", "--plot", "a.run"],
            "--plot a.run: .run is no kind of picture; a name that ends in .png, .pdf, .svg makes",
        ),
        (["RUN", "--plot", "a.pgf"], "--plot a.pgf: .pgf is no kind of picture"),
        (["RUN", "--plot", ""], "--plot .: is no name of a file"),
        (["RUN", "--plot", "run"], "--plot run: is there already, and nothing is overwritten; name another file"),
        (["RUN", "--plot", "run/config.yaml/a"], "--plot run/config.yaml/a: there is no folder run/config.yaml"),
        (["RUN", "--plot", f"{'a' * 300}.png"], ".png: File name too long"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(copied_run, noprop, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    copied_run()
    said = noprop("compare", *("run" if each == "RUN" else each for each in arguments), code=2)
    assert said.count("\n") == 1
    assert message in said


def test_names_are_the_last_folders_as_many_as_tell_them_apart(copied_run, tmp_path):
    run, other = copied_run(), copied_run(name="other").root
    for place in ("a", "b"):
        shutil.copytree(run.root, tmp_path / place / "run")
    runs = (tmp_path / "a/run", tmp_path / "b/run", other, tmp_path / "a/../a/run", f"file://{tmp_path}/b/run/")
    assert [each.name for each in compared(*runs).runs] == ["a/run", "b/run", "other"], "each is there once"


def test_the_settings_that_differ_are_those_that_have_an_effect(copied_run):
    rates = [copied_run(f"training.learning_rate={rate}", "metrics.linger_seconds=1", name=f"{rate}")
             for rate in (0.001, 0.01)]  # fmt: skip
    assert compared(*rates).differing == ("training.learning_rate",)
    (table,) = compared(*rates).tables(joined=True)
    column = table.headings.index("training.learning_rate")
    assert [row[column] for row in table.rows] == ["0.001", "0.01"]
    other = copied_run("embedding={kind: learned, sync_steps: 4}", "training.early_stopping={patience: 5}")
    differing = compared(rates[0], other).differing
    assert {"embedding.kind", "training.early_stopping.patience"} <= {*differing}
    assert "embedding.sync_steps" not in differing, "it has no effect on one-hot embeddings"


def test_many_settings_that_differ_stand_in_a_table_of_their_own(copied_run):
    settings = ("training.learning_rate=0.01", "training.weight_decay=0.1", "objective.eta=0.2",
                "blocks.networks.2={kind: mlp, width: 8, depth: 1}")  # fmt: skip
    figures, differing = compared(copied_run(), copied_run(*settings, name="other")).tables(joined=True)
    assert "training.learning_rate" not in figures.headings
    assert differing.headings == ("setting", "run", "other")
    rows = {row[0]: row[1:] for row in differing.rows}
    assert rows["objective.eta"] == ("0.1", "0.2")
    assert rows["blocks.networks.2.width"] == ("null", "8")


@pytest.fixture
def baseline(small_config, tmp_path):
    """A run of the baseline, measured once."""
    config = small_config("method=backprop", "training.max_steps=8", "evaluation.samples=0")
    trained_end_to_end(config, str(tmp_path / "baseline"))
    directory = RunDirectory(str(tmp_path / "baseline"))
    figures = {"accuracy": 0.5, "nearest_embedding_accuracy": 0.5, "passes": 1, "samples": 359, "time": 1.0}
    directory.append_metrics(
        [Evaluated(step=8, final=True, split="test", sampler=each, **figures) for each in ("mean", "stochastic")]
    )
    return directory


def test_the_baseline_stands_beside_noprop_with_as_many_block_steps_a_step_as_it_has_blocks(baseline, copied_run):
    comparison = compared(baseline, copied_run())
    figures = comparison.runs[0]
    assert (figures.method, figures.steps, figures.block_steps, figures.elbo) == ("backprop", 8, 24, None)
    plan = RunPlan(baseline.config(), baseline.facts())
    network = end_to_end_network(plan, prepare(baseline.config())[0].embedding)
    assert figures.parameters == parameters(network)
    assert figures.block_parameters == parameters(network.blocks[0])
    assert comparison.differing == ("training.max_steps", "engine.kind", "evaluation.samples"), "and no schedule"
    (table,) = comparison.tables(joined=True)
    cells = dict(zip(table.headings, table.rows[0], strict=True))
    assert cells["test, mean sampler (%)"] == "50.00"
    assert cells["validation ELBO (nats)"] == ""


@pytest.fixture
def repeated(copied_run):
    """Three runs that differ in their seeds, and one in its learning rate."""
    runs = [copied_run(f"seed={seed}", EVERY_THIRD, name=f"seed{seed}") for seed in (0, 1, 2)]
    return [*runs, copied_run("training.learning_rate=0.01", EVERY_THIRD, name="faster")]


def test_repetitions_give_mean_and_standard_error(repeated, noprop):
    comparison = compared(*repeated, group=True)
    group, single = comparison.rows
    assert (group.name, group.seeds, single.name) == ("seed0 +2", (0, 1, 2), "faster")
    for name in ("test_accuracy", "elbo", "training_seconds"):
        figures = [getattr(run, name) for run in compared(*repeated[:3]).runs]
        mean = group.mean(name)
        assert mean.value == pytest.approx(np.mean(figures))
        assert mean.error == pytest.approx(np.std(figures, ddof=1) / math.sqrt(3))
        assert mean.count == 3
    assert single.mean("elbo").error is None
    whole = json.loads(noprop("compare", *(run.root for run in repeated), "--group", "--json"))
    assert [each["seeds"] for each in whole["groups"]] == [[0, 1, 2], [0]]
    assert whole["groups"][0]["test_accuracy"] == {
        "mean": group.mean("test_accuracy").value, "standard_error": group.mean("test_accuracy").error, "runs": 3,
    }  # fmt: skip
    text = noprop("compare", *(run.root for run in repeated), "--group")
    assert group.mean("test_accuracy").text(".2f", 100) in text
    assert "mean ± standard error over seeds" in text


def test_a_run_that_is_not_at_its_end_is_no_repetition_of_one_that_is(repeated):
    first, second, third, _ = repeated
    rows = compared(first, second, cut_short(third, 9), group=True).rows
    assert [len(row.runs) for row in rows] == [2, 1]


def test_a_seed_that_is_there_twice_is_told(repeated, tmp_path):
    first, second, *_ = repeated
    again = shutil.copytree(first.root, tmp_path / "again")
    (line,) = compared(first, second, again, group=True).warnings
    assert line.startswith("seed0, seed1, again: 3 runs with the same settings have 2 seed(s)")
    assert compared(first, second, again).warnings == ()


def test_means_of_what_is_no_number_are_none():
    assert math.isnan(Mean.of([math.inf, 1.0]).value)
    assert Mean.of([math.nan, 1.0]).text(".2f") == "nan"
    assert Mean.of([0.5]).text(".2f", 100) == "50.00"


def test_rows_are_sorted_with_the_best_first_and_what_is_missing_last(repeated, small_config, tmp_path):
    setup, _ = prepare(small_config())
    RunDirectory(str(tmp_path / "begun")).create(setup.plan.config, setup.plan.facts)
    runs = [tmp_path / "begun", *repeated]
    accuracies = [each.test_accuracy for each in compared(*runs, sort="test_accuracy").runs]
    assert accuracies[-1] is None
    assert accuracies[:-1] == sorted(accuracies[:-1], reverse=True)
    seconds = [each.training_seconds for each in compared(*repeated, sort="training_seconds").runs]
    assert seconds == sorted(seconds)
    assert [each.name for each in compared(*repeated, sort="name").runs] == ["faster", "seed0", "seed1", "seed2"]
    assert compared(*reversed(repeated), sort="training.learning_rate").runs[-1].name == "faster"
    assert compared(*repeated, sort="training.learning_rate", group=True).rows[-1].name == "faster"


def test_json_has_all_figures_and_the_settings_that_differ(repeated, noprop):
    whole = json.loads(noprop("compare", repeated[0].root, repeated[3].root, "--json"))
    assert whole["differing_settings"] == ["training.learning_rate"]
    assert [each["settings"] for each in whole["runs"]] == [{"training.learning_rate": rate} for rate in (0.001, 0.01)]
    (figures, _) = compared(repeated[0], repeated[3]).runs
    assert whole["runs"][0]["test_accuracy"] == figures.test_accuracy
    assert whole["runs"][0]["curve"][-1]["step"] == 12


def test_json_has_null_for_what_is_no_number(copied_run, noprop):
    run = copied_run()
    file = run.local_root / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**each, **({"elbo": math.nan} if "elbo" in each else {})}) + "\n"
                            for each in lines))  # fmt: skip
    text = noprop("compare", run.root, "--json")
    assert json.loads(text)["runs"][0]["elbo"] is None
    assert "NaN" not in text
    assert "nan" in noprop("compare", run.root)


def test_markdown_has_a_cell_for_every_heading_and_takes_names_for_text(copied_run, noprop):
    names = ["a|b", "<b>_c_", "d\x1b[31m"]
    runs = [copied_run(f"seed={seed}", name=name).root for seed, name in enumerate(names)]
    text = noprop("compare", *runs, "--markdown")
    lines = text.splitlines()
    assert len(lines) == 2 + 3
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[1].count("|")}
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| a\\|b", "| \\<b\\>\\_c\\_", "| d\\\\x1b\\[31m"
    ]  # fmt: skip
    assert markdown_table(["x"], [["[1, 2]"]]) == "| x |\n| --- |\n| \\[1, 2\\] |\n"


def test_a_wide_terminal_has_one_table_a_usual_one_two_and_a_narrow_one_a_list(copied_run, noprop, monkeypatch):
    run = copied_run()
    tables = {}
    for columns in (40, 130, 400):
        monkeypatch.setenv("COLUMNS", str(columns))
        tables[columns] = noprop("compare", run.root)
        assert max(map(len, tables[columns].splitlines())) <= columns
    (figures,) = compared(run).runs
    accuracy, memory = f"{100 * figures.test_accuracy:.2f}", f"{figures.peak_memory_bytes / 2**20:,.0f}"
    assert any(accuracy in line and memory in line for line in tables[400].splitlines())
    assert not any(accuracy in line and memory in line for line in tables[130].splitlines())
    assert all(each in table for table in tables.values() for each in (accuracy, memory))
    assert "peak memory (MiB): " in tables[40]


def test_the_picture_is_a_png_with_a_line_for_every_run(repeated, noprop, tmp_path):
    noprop("compare", *(run.root for run in repeated), "--plot", tmp_path / "runs.png")
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    figure = compared(*repeated, group=True).figure()
    seconds, epochs = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]
    colours = [line.get_color() for line in epochs.lines]
    assert colours[0] == colours[1] == colours[2] != colours[3]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.partition("%  ")[2] for label in labels] == ["seed0 +2", "faster"]
    first = compared(repeated[0]).runs[0]
    assert list(seconds.lines[0].get_xdata()) == [each.training_seconds for each in first.curve]
    assert list(epochs.lines[0].get_ydata()) == [100 * each.test_accuracy for each in first.curve]


def test_where_nothing_was_measured_there_is_a_table_and_no_picture(copied_run, tmp_path, capsys):
    run = copied_run("evaluation.samples=0")
    with pytest.raises(SystemExit) as end:
        main(["compare", run.root, "--plot", str(tmp_path / "runs.png")])
    told = capsys.readouterr()
    assert end.value.code == 2
    assert "block-steps" in told.out
    assert "there is nothing to draw: no checkpoint of these runs was measured on test samples" in told.err
    assert not (tmp_path / "runs.png").exists()


def test_a_data_frame_has_a_row_for_each_run(repeated):
    frame = compared(*repeated).dataframe
    assert list(frame["name"]) == ["seed0", "seed1", "seed2", "faster"]
    assert list(frame["training.learning_rate"]) == [0.001, 0.001, 0.001, 0.01]


def test_a_row_is_named_after_its_first_run(repeated):
    runs = compared(*repeated).runs
    assert Row(runs[:1]).name == "seed0"
    assert Row(runs[:2]).name == "seed0 +1"


def test_help_names_every_option(noprop, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = noprop("compare", "--help")
    assert all(option in text for option in ("--group", "--sort", "--plot", "--markdown", "--json"))
