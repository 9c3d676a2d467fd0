"""Layers of settings, and one clear sentence for everything that is not allowed."""

import os
from pathlib import Path

import pytest
import yaml

from noprop_dist.config import layers
from noprop_dist.config.layers import load_config, to_yaml, validated
from noprop_dist.config.yaml_text import parse_yaml, to_yaml_text
from noprop_dist.errors import UserError


@pytest.mark.parametrize("preset", layers.PRESETS)
def test_every_preset_is_valid_and_survives_writing_and_reading(preset):
    config = load_config(preset, None, [])
    assert config.blocks.count == 10
    assert config.objective.eta == 0.1
    assert validated(yaml.safe_load(to_yaml(config))) == config


def test_digits_is_what_is_trained_without_any_option():
    assert load_config(None, None, []) == load_config("digits", None, [])


def test_settings_lie_over_file_over_preset(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("seed: 5\ntraining: {batch_size: 32, learning_rate: 1e-2}\n")
    config = load_config("mnist", file, ["training.batch_size=64"])
    assert (config.seed, config.training.batch_size, config.training.learning_rate) == (5, 64, 0.01)
    assert config.data.name == "mnist"
    assert load_config(None, file, []).data.name == "digits", "a file alone starts from the defaults"


def test_changing_a_kind_drops_the_settings_of_the_other_kind():
    config = load_config("digits", None, ["blocks.network.width=64", "blocks.network.kind=mlp"])
    assert config.blocks.network.kind == "mlp"
    assert config.blocks.network.width == 256


def test_another_engine_keeps_the_settings_of_the_engine():
    config = load_config("digits", None, ["engine={kind: ray, threads_per_worker: 2}", "engine.kind=sequential"])
    assert config.engine.threads_per_worker == 2


def test_single_blocks_can_have_another_network():
    config = load_config("digits", None, ["blocks.networks.3={kind: mlp, width: 32}"])
    assert config.blocks.network_of(3).kind == "mlp"
    assert config.blocks.network_of(2).kind == "small-conv"


@pytest.mark.parametrize(("value", "blocks"), [("1-3,8", (1, 2, 3, 8)), ("[5, 2]", (2, 5)), ("4", (4,))])
def test_single_blocks_can_be_trained_alone(value, blocks):
    assert load_config("digits", None, [f"blocks.only={value}"]).blocks.trained() == blocks


def test_max_steps_goes_before_epochs():
    training = load_config("digits", None, ["training.epochs=3"]).training
    assert training.steps(1000) == 3 * (1000 // 128)
    assert load_config("digits", None, ["training.max_steps=7"]).training.steps(1000) == 7


def test_there_are_at_least_five_checkpoints_in_a_run():
    checkpoint = load_config("mnist", None, []).checkpoint
    assert checkpoint.steps_between(total_steps=300, steps_per_epoch=421) == 60
    assert checkpoint.steps_between(total_steps=42_100, steps_per_epoch=421) == 421
    assert checkpoint.steps_between(total_steps=3, steps_per_epoch=421) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.batch_sise=3", "training.batch_sise: there is no such setting; did you mean batch_size?"),
        ("trainning.epochs=3", "trainning: there is no such setting; did you mean training?"),
        (
            "blocks.network.kernel=3",
            "blocks.network.kernel: there is no such setting; allowed are kind, channels, width",
        ),
        ("blocks.network.kind=transformer", "blocks.network: .*'transformer'.* kind must be one of paper, small-conv"),
        ("blocks.network=vit", "blocks.network: 'vit' .* this is a section; write blocks.network.kind=vit$"),
        ("blocks.network=vitt", "its kind one of paper, .*; did you mean vit?$"),
        ("data=mnist", "data: 'mnist' .* write data.name='mnist'$"),
        ("blocks.noise=3", "this is a section, with the settings kind, density, weight, overlap, width$"),
        ("training.batch_size=many", "training.batch_size: 'many' is not allowed: input should be a valid integer"),
        ("blocks.count=0", "blocks.count: 0 is not allowed: input should be greater than or equal to 1"),
        ("objective.eta=0", "objective.eta: 0 is not allowed: input should be greater than 0"),
        ("objective.eta=-1", "objective.eta: -1 is not allowed"),
        ("training.learning_rate=0", "training.learning_rate: 0 is not allowed"),
        ("schedule={kind: list, alpha_bar: [0.9, 0.1]}", "blocks.count=10 needs 11"),
        ("schedule.kind=list", "alpha_bar is given exactly where schedule.kind=list"),
        ("schedule.alpha_bar_max=1.5", "schedule.alpha_bar_max: 1.5 is not allowed"),
        ("schedule={alpha_bar_min: 0.9, alpha_bar_max: 0.2}", "alpha_bar"),
        ("blocks.only=[11]", "only names block 11, blocks are 1..10"),
        ("blocks.only=[1, 1]", "none twice"),
        ("blocks.only=[]", "at least one block"),
        ("blocks.only=a-b", "'a-b' is no list of blocks such as 1-5,8"),
        ("blocks.only=5-3,2", "'5-3' runs backwards, write 3-5"),
        ("blocks.networks.12={kind: mlp}", "networks names block 12"),
        ("data.name=mnits", "data.name: 'mnits' is not allowed: input should be 'digits', 'mnist'"),
        ("data.name=npz", "root must be given for data.name=npz"),
        ("metrics.port=70000", "metrics.port: 70000 is not allowed"),
        ("training.lr_schedule={kind: one-cycle, warmup_steps: 3}", "warmup_steps must be 0"),
        ("engine.workers=none", "engine.workers"),
        ("seed=-1", "seed: -1 is not allowed"),
        ("tracking=tensorbord", "tracking.*'tensorbord' is not allowed.*'tensorboard'"),
        ("checkpoint.score=test accuracy", "checkpoint.score: 'test accuracy' is not allowed.*'validation accuracy'"),
        ("training.early_stopping={patience: 0}", "patience: 0 is not allowed"),
        ("training.early_stopping=true", "training.early_stopping"),
        ("seed", "setting seed: write key.path=value"),
        ("=3", "write key.path=value"),
        ("seed=[1", "cannot be read as YAML"),
    ],
)
def test_a_setting_that_is_not_allowed_is_named_with_its_value(setting, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[").replace("?", r"\?")) as refused:
        load_config("digits", None, [setting])
    assert "\n" not in str(refused.value)


def test_a_reversed_schedule_is_told_its_direction():
    values = [round(0.95 - 0.09 * t, 2) for t in range(11)]
    with pytest.raises(UserError, match="direction is reversed: time runs from noise"):
        load_config("digits", None, [f"schedule={{kind: list, alpha_bar: {values}}}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1\n- 2\n", "must hold settings"),
        ("a: [", "line 1, column 5: expected the node content"),
        (None, "cannot be read"),
        (b"\xff\xfe", "is no UTF-8 text"),
        (b"", "it holds nothing"),
        (b"a" * 2**21, "larger than 1 MiB"),
        ("training:\n\tmax_steps: 3\n", "line 2, column 1: a tab stands where only spaces may"),
        (
            "seed: 1\ntraining: {epochs: 2}\nseed: 2\n",
            "line 3, column 1: seed stands twice in one section, first in line 1",
        ),
        ("a: &a [*a]", "a value contains itself"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, message):
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_config(None, file, [])


def test_an_unknown_preset_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="preset minst: no such preset; allowed are digits, mnist"):
        load_config("minst", None, [])


def test_a_configuration_cannot_be_changed():
    with pytest.raises(UserError, match="seed=3: settings are fixed"):
        load_config("digits", None, []).seed = 3


@pytest.mark.parametrize(
    "text", ["training: {1: {}, 01: {}}", "training:\n  1: {}\n  '1': {}", "{training: {0x1: {}, 1: {}}}"]
)
def test_a_key_that_is_written_in_two_ways_stands_twice(text):
    with pytest.raises(UserError, match="1 stands twice in one section"):
        parse_yaml(text, "here")


def test_the_first_of_several_merged_mappings_goes_before_and_what_is_there_before_all():
    text = "training: {<<: [{max_steps: 3, epochs: 4}, {max_steps: 5, seed: 6}], epochs: 7}"
    assert parse_yaml(text, "here") == {"training": {"max_steps": 3, "epochs": 7, "seed": 6}}
    with pytest.raises(UserError, match="line 1, column 17: << takes a mapping or a list of mappings"):
        parse_yaml("training: {<<: [3]}", "here")


@pytest.mark.parametrize("setting", ["blocks.networks.²=3", "blocks.only=²", f"blocks.training.{'1' * 5000}.x=1"])
def test_digits_that_are_no_numbers_are_told(setting):
    with pytest.raises(UserError):
        load_config("digits", None, [setting])


def test_an_alias_bomb_is_refused_before_it_is_unfolded(tmp_path):
    lines = ["b0: &b0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="it stands for more than 100,000 values"):
        load_config(None, tmp_path / "bomb.yaml", [])


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="it holds nothing"):
        load_config(None, tmp_path / "pipe.yaml", [])
    with pytest.raises(UserError, match="is a pipe or device, no file"):
        load_config(None, Path("/dev/zero"), [])


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("0o17", 15), ("1e-3", 0.001), ("1e3", 1000.0), ("1:30", "1:30"), ("off", "off"), ("no", "no"),
     ("2024-05-01", "2024-05-01"), ("true", True), ("~", None), (".inf", float("inf"))],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(text, value):
    read = parse_yaml(text, "here")
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ["1e-3", "010", "off", "1:30", "2024-05-01", "0o17", "M\udcfcnchen", "", "~", "<<"])
def test_text_that_looks_like_something_else_is_written_so_that_it_stays_text(text):
    assert parse_yaml(to_yaml_text({"a": text}), "here") == {"a": text} == yaml.safe_load(to_yaml_text({"a": text}))


@pytest.mark.parametrize("root", ["2024", "010", "no", "set #3", "2024-02-30", "a: b", "1" * 5000, "M\udcfcnchen"])
def test_a_setting_that_is_text_takes_what_is_given_as_it_stands(root):
    assert load_config(None, None, ["data.name=image-folder", f"data.root={root}"]).data.root == root


@pytest.mark.parametrize(
    "setting", ["metrics.port=false", "seed=true", "blocks.only=[true, 2]", "blocks.networks={true: {kind: mlp}}",
                "engine.workers=true", "objective.eta=true", "data.augment.crop_padding=true"]
)  # fmt: skip
def test_booleans_are_no_numbers(setting):
    key, _, _ = setting.partition("=")
    with pytest.raises(UserError, match=f"^{key}: .*true and false are no numbers"):
        load_config("digits", None, [setting])


@pytest.mark.parametrize(
    "setting", ["engine.hang_seconds=.inf", "objective.eta=.nan", "training.gradient_clip=.inf", "metrics.port=off",
                "schedule={kind: list, alpha_bar: [.inf, 1]}", "training.max_steps=1e30", "blocks.only=1-99999999999",
                "blocks.network={kind: mlp, depth: 100000}", "engine.grace_seconds=1e300",
                "metrics.linger_seconds=1e300"]
)  # fmt: skip
def test_numbers_that_no_run_can_use_are_refused(setting):
    with pytest.raises(UserError, match="is not allowed|is no block"):
        load_config("digits", None, [setting])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["data.image_size=32", "data.root=/x"], "data.root: no effect with data.name=digits"),
        (["schedule={kind: list, alpha_bar: [0.1, 0.9], alpha_bar_min: 0.2}", "blocks.count=1"],
         "schedule.alpha_bar_min: no effect with schedule.kind=list"),
        (["embedding.sync_steps=4"], "embedding.sync_steps: no effect with embedding.kind=onehot"),
        (["engine.kind=sequential", "engine.workers=3", "metrics.port=1"],
         "engine.workers, metrics.port: no effect with engine.kind=sequential"),
        (["blocks.only=2", "blocks.training.3.learning_rate=1"],
         "blocks.training.3.learning_rate: no effect on blocks that blocks.only does not name"),
        (["training={epochs: 3, max_steps: 4}"], "training.epochs: no effect with training.max_steps=4"),
        (["seed=1", "seed=2"], "seed=1: no effect, for seed=2 is given, too"),
        (["blocks.network={kind: paper, dropout: 0.3}", "blocks.network.kind=mlp"],
         "blocks.network.dropout: no effect with blocks.network.kind=mlp"),
        (["blocks={count: 1, networks: {1: {kind: mlp}}, network: {width: 3}}"],
         "blocks.network.width: no effect where blocks.networks names every block"),
        (["engine.device=cpu", "training.precision=tf32"], "training.precision: no effect on engine.device=cpu"),
        (["blocks.network.kind=mlp", "training.channels_last=true"],
         "training.channels_last: no effect with blocks.network.kind=mlp"),
        (["blocks.networks={1: {kind: mlp}}", "blocks.network.kind=vit", "training.channels_last=true"],
         "training.channels_last: no effect with blocks.network.kind=mlp and vit"),
    ],
)  # fmt: skip
def test_settings_that_do_nothing_are_told(settings, line):
    told = []
    load_config("digits", None, settings, told.append)
    assert line in told


def test_settings_that_do_something_and_defaults_that_do_nothing_are_not_told(tmp_path):
    (tmp_path / "copy.yaml").write_text(to_yaml(load_config("digits", None, ["engine.kind=sequential"])))
    told = []
    load_config(None, tmp_path / "copy.yaml", ["training.max_steps=3", "seed=4"], told.append)
    load_config("mnist", None, ["training.max_steps=3", "engine.workers=3"], told.append)
    assert told == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.early_stopping={}", "blocks.only=[1]"], "early_stopping is not allowed with blocks.only"),
        (
            ["training.early_stopping={}", "evaluation.samples=0"],
            "not allowed with evaluation.samples=0",
        ),
        (["training.early_stopping={}", "method=backprop"], "early_stopping is not allowed with method=backprop"),
        (["checkpoint.score=validation elbo", "method=backprop"], "which has only accuracies"),
    ],
)
def test_what_cannot_be_measured_decides_nothing(settings, message):
    with pytest.raises(UserError, match=message):
        load_config("digits", None, settings)


def test_early_stopping_keeps_checkpoints_by_validation_accuracy_unless_another_score_is_given():
    assert load_config("digits", None, []).score is None
    assert load_config("digits", None, ["training.early_stopping={patience: 2}"]).score == "validation accuracy"
    other = ["training.early_stopping.min_delta=0.1", "checkpoint.score=validation elbo"]
    assert load_config("digits", None, other).score == "validation elbo"


def test_what_is_done_to_parsed_yaml_is_not_in_what_is_parsed_next():
    parse_yaml("a: {b: [1]}", "x")["a"]["b"].append(2)
    assert parse_yaml("a: {b: [1]}", "x") == {"a": {"b": [1]}}


@pytest.mark.parametrize("setting", ["engine.workers={mn: 2}", "engine.workers.mx=2"])
def test_a_wrong_name_in_a_section_that_takes_a_number_too_is_told_with_the_right_ones(setting):
    with pytest.raises(UserError, match=r"there is no such setting(; allowed are min, max|; did you mean (min|max)\?)"):
        load_config("digits", None, [setting])
