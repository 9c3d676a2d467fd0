"""Layers of settings, and one clear sentence for everything that is not allowed."""

import pytest
import yaml

from noprop_dist.config import layers
from noprop_dist.config.layers import load_config, to_yaml, validated
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
        ("blocks.network.kind=transformer", "blocks.network: .*'transformer'.*'paper'"),
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
        ("blocks.networks.12={kind: mlp}", "networks names block 12"),
        ("data.name=mnits", "data.name: 'mnits' is not allowed: input should be 'digits', 'mnist'"),
        ("data.name=npz", "root must be given for data.name=npz"),
        ("metrics.port=70000", "metrics.port: 70000 is not allowed"),
        ("training.lr_schedule={kind: one-cycle, warmup_steps: 3}", "warmup_steps must be 0"),
        ("engine.workers=none", "engine.workers"),
        ("seed=-1", "seed: -1 is not allowed"),
        ("seed", "--set seed: write key.path=value"),
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
        ("a: [", "is no YAML"),
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, message):
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_config(None, file, [])


def test_an_unknown_preset_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="--preset minst: no such preset; allowed are digits, mnist"):
        load_config("minst", None, [])


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config("digits", None, []).seed = 3
