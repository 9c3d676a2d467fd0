"""Each setting says whether it changes the bits of a result, and three commands decide by that alone."""

from typing import Annotated, get_args, get_origin

import pytest
from pydantic import BaseModel

from noprop_dist.config.bits import LENGTH, changed_bits, changes_between, continued, what_changes_bits
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import RunConfig
from noprop_dist.config.sections.base import Mark
from noprop_dist.errors import UserError

BASELINE = "method=backprop"
LEARNED = "embedding.kind=learned"

CHANGE_BITS = [
    "seed=1",
    "data.validation_fraction=0.2",
    "data.augment.crop_padding=1",
    "schedule.kind=linear",
    "schedule={kind: list, alpha_bar: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]}",
    "embedding.kind=learned",
    "embedding.sync_steps=8",
    "blocks.count=11",
    "blocks.network.width=64",
    "blocks.network={kind: custom, path: 'a:B', arguments: {depth: 3}}",
    "blocks.networks.3={kind: mlp}",
    "classifier.sigma=1",
    "objective.eta=0.2",
    "training.max_steps=12",
    "training.batch_size=64",
    "training.replicas_per_block=2",
    "training.precision=bfloat16",
    "training.channels_last=false",
    "training.compile=true",
    "training.learning_rate=0.01",
    "training.lr_schedule.kind=cosine",
    "training.ema_decay=0.99",
    "training.init_from=elsewhere",
    "engine.device=cpu",
    "engine.threads_per_worker=2",
]
KEEP_BITS = [
    "data.root=elsewhere",
    "data.download=false",
    "engine.kind=sequential",
    "engine.address='10.0.0.1:6379'",
    "engine.workers=5",
    "engine.workers={min: 2, max: 5}",
    "engine.workers.min=3",
    "engine.round_steps=7",
    "engine.prefetch=1",
    "engine.sampling=worker",
    "engine.cuda_graphs=never",
    "engine.blocks_at_once=2",
    "engine.blocks_per_worker=2",
    "engine.max_failures=-1",
    "engine.grace_seconds=1",
    "engine.profile={block: 3, steps: 5}",
    "engine.profile.block=2",
    "evaluation.samples=0",
    "checkpoint.every_steps=7",
    "checkpoint.num_to_keep=1",
    "checkpoint.score=validation elbo",
    "training.early_stopping.patience=5",
    "tracking=tensorboard",
    "checkpoint.snapshot_every_steps=5",
    "metrics.port=0",
]
OF_SINGLE_STAGES = [
    "blocks.training.3.learning_rate=0.0001",
    "blocks.training.3.weight_decay=0.0",
    "blocks.training.10.gradient_clip=1.0",
    "classifier.learning_rate=0.001",
    "embedding.learning_rate=0.01",
]


def sections_in(annotation):
    """The sections that a field may hold: itself, one of a union, or the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return [section for part in parts for section in sections_in(part)]


def fields_of(section, prefix=""):
    """(dotted key, field) of everything that a section can hold and that is no section itself."""
    for name, field in section.model_fields.items():
        is_marked = any(isinstance(each, Mark) for each in field.metadata)
        inner = [] if is_marked else sections_in(field.annotation)
        for each in inner:
            yield from fields_of(each, f"{prefix}{name}.")
        if not inner:
            yield prefix + name, field


FIELDS = dict(fields_of(RunConfig))


@pytest.mark.parametrize("key", FIELDS)
def test_every_setting_says_once_what_it_changes(key):
    assert len([mark for mark in FIELDS[key].metadata if isinstance(mark, Mark)]) == 1


def test_settings_of_every_section_are_found():
    assert {key.partition(".")[0] for key in FIELDS} == set(RunConfig.model_fields)
    assert {"blocks.network.dropout", "blocks.networks.channels", "blocks.training.weight_decay"} <= set(FIELDS)


@pytest.mark.parametrize("setting", CHANGE_BITS)
def test_a_setting_that_changes_bits_makes_another_run(setting):
    before, after = load_config("digits", None, []), load_config("digits", None, [setting])
    assert what_changes_bits(before) != what_changes_bits(after)
    (key, *_) = changed_bits(before, after)
    if key in LENGTH:
        assert continued(before, [setting]) == after, "a run may become longer"
        return
    with pytest.raises(UserError, match="resume only takes settings that change no bits"):
        continued(before, [setting])


@pytest.mark.parametrize("setting", KEEP_BITS)
def test_a_setting_that_keeps_bits_makes_no_other_run(setting):
    before, after = load_config("digits", None, []), load_config("digits", None, [setting])
    assert what_changes_bits(before) == what_changes_bits(after)
    assert changed_bits(before, after) == []
    assert continued(before, [setting]) == after


@pytest.mark.parametrize("setting", OF_SINGLE_STAGES)
def test_a_single_stage_may_be_trained_otherwise_from_here_on(setting):
    before, after = load_config("digits", None, [LEARNED]), load_config("digits", None, [LEARNED, setting])
    assert changed_bits(before, after) == [setting.partition("=")[0]]
    assert continued(before, [setting]) == after
    assert changes_between(before, after) == [setting]


def test_what_a_resume_changed_for_one_stage_a_second_one_can_change_again():
    first = continued(load_config("digits", None, []), ["blocks.training.3.learning_rate=0.01"])
    second = continued(first, ["blocks.training.3={weight_decay: 0.1}", "metrics.port=0"])
    assert changes_between(first, second) == ["blocks.training.3.weight_decay=0.1"]
    assert second.training_of(3).learning_rate == 0.01
    assert second.training_of(3).weight_decay == 0.1


def test_a_setting_that_has_its_value_already_is_no_change():
    config = load_config("digits", None, [])
    assert continued(config, ["seed=0", "classifier.learning_rate=0.02"]) == config


def test_which_blocks_are_trained_makes_another_run_and_changes_no_bits_of_a_block():
    whole, part = load_config("digits", None, []), load_config("digits", None, ["blocks.only=1-3"])
    assert what_changes_bits(whole) == what_changes_bits(part), "so `merge` can put parts together"
    assert changed_bits(whole, part) == ["blocks.only"]
    with pytest.raises(UserError, match=r"blocks.only=\[1, 2\]: this run has blocks.only=\[1, 2, 3\], which names the"):
        continued(part, ["blocks.only=1-2"])


def test_a_run_is_measured_in_the_same_steps_from_beginning_to_end():
    ranges = "blocks.noise={kind: range}"
    before, after = (load_config("digits", None, [ranges, f"evaluation.steps_per_block={k}"]) for k in (2, 1))
    assert what_changes_bits(before) == what_changes_bits(after)
    assert changed_bits(before, after) == ["evaluation.steps_per_block"]
    with pytest.raises(
        UserError, match="steps_per_block=1: this run has .*=2, .*`evaluate --steps-per-block 1` measur"
    ):
        continued(before, ["evaluation.steps_per_block=1"])


def test_the_number_of_processes_changes_the_bits_of_the_baseline_alone():
    before, after = (load_config("digits", None, [BASELINE, *more]) for more in ([], ["engine.workers=2"]))
    assert changed_bits(before, after) == ["engine.workers"]
    with pytest.raises(UserError, match="engine.workers=2: this run has engine.workers=auto"):
        continued(before, ["engine.workers=2"])


def test_the_baseline_has_no_stages_that_could_be_trained_otherwise():
    with pytest.raises(UserError, match="classifier.learning_rate") as refused:
        continued(load_config("digits", None, [BASELINE]), ["classifier.learning_rate=0.1"])
    assert "from here on" not in str(refused.value)
    assert continued(load_config("digits", None, [BASELINE]), ["training.epochs=41"]).training.epochs == 41


def test_values_are_compared_as_they_are_written():
    """`auto` means another device on another machine, and a configuration does not know its machine."""
    assert changed_bits(load_config("digits", None, []), load_config("digits", None, ["engine.device=cpu"]))


def test_a_refusal_names_key_values_and_what_is_allowed_in_one_sentence():
    with pytest.raises(UserError) as refused:
        continued(load_config("digits", None, []), ["engine.threads_per_worker=2"])
    assert str(refused.value) == (
        "engine.threads_per_worker=2: this run has engine.threads_per_worker=1, which fixes the bits of its "
        "result; resume only takes settings that change no bits (such as engine.address, checkpoint.* and metrics.*)"
        ", from here on blocks.training.N.*, classifier.learning_rate and embedding.learning_rate, and the length of "
        "the run (training.epochs or training.max_steps)"
    )


def test_a_setting_that_does_not_exist_is_refused_as_in_train():
    with pytest.raises(UserError, match="did you mean batch_size"):
        continued(load_config("digits", None, []), ["training.batch_sise=3"])
