"""`resume --set training.max_steps=…` makes a run longer, or shorter down to what is done; nothing else changes."""

import json
import shutil

import pytest
import torch

from noprop_dist import api
from noprop_dist.config.schema import TrainingSettings
from noprop_dist.errors import UserError
from noprop_dist.records import EmbeddingUpdated, Evaluated, News, RoundDone
from noprop_dist.stages import block
from noprop_dist.training.optimisation import Optimisation

# Checkpoints at 4, 8, 12 of 12 steps, or of 24.
EVERY_4 = ["checkpoint.every_steps=4", "checkpoint.num_to_keep=9", "evaluation.samples=16", "training.batch_size=16"]
LEARNED = "embedding={kind: learned, sync_steps: 8}"


def state_of(directory):
    """All that a run has come to: weights, optimisers and schedules."""
    return {
        stage: (snapshot.step, snapshot.fingerprint(), snapshot.settings, {k: v.tolist() for k, v in
                snapshot.optimizer.items()})
        for stage, snapshot in directory.checkpoints.load_all().items()
    }  # fmt: skip


def texts(directory):
    return [record.text for record in directory.metrics() if isinstance(record, News)]


@pytest.mark.parametrize("left", [12, 4])
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["training.lr_schedule={kind: step, step_size: 7}"],
        ["training.lr_schedule.warmup_steps=15", "training.optimizer=sgd"],
        [LEARNED, "training.lr_schedule.warmup_steps=1"],
        [LEARNED, "embedding.sync_steps=4"],
    ],
)
def test_a_longer_run_has_the_bits_of_one_that_was_begun_with_that_length(copied_run, settings, left):
    whole = copied_run(*EVERY_4, *settings, "training.max_steps=24", name="whole")
    part = copied_run(*EVERY_4, *settings)
    for step in range(left + 4, 16, 4):
        shutil.rmtree(f"{part}/checkpoints/step-{step:08d}", ignore_errors=True)
    outcome = api.resume(str(part), ["training.max_steps=24"])
    assert (outcome.step, outcome.evaluation.final) == (24, True)
    assert state_of(part) == state_of(whole)
    for kind in (RoundDone, EmbeddingUpdated):  # each step counts once, whatever was done twice
        done, wanted = (sum(r.steps for r in run.metrics() if isinstance(r, kind)) for run in (part, whole))
        assert done == wanted


def test_epochs_make_a_run_longer_as_steps_do(copied_run):
    short = ["training.max_steps=null", "training.batch_size=128", "evaluation.samples=0"]
    whole = copied_run(*short, "training.epochs=4", name="whole")
    part = copied_run(*short, "training.epochs=2")
    api.resume(str(part), ["training.epochs=4"])
    assert state_of(part) == state_of(whole)
    assert part.config().training.epochs == 4


def test_going_back_to_make_a_version_of_w_embed_as_a_whole_is_told(copied_run):
    run = copied_run(*EVERY_4, LEARNED)
    api.resume(str(run), ["training.max_steps=24"])
    (told,) = [text for text in texts(run) if "W_embed" in text]
    assert "ended at step 12 was cut short by the end of the run" in told
    assert told.endswith("goes on from step 8")
    assert set(run.changes()[0].from_step.values()) == {8}
    assert 12 not in run.checkpoints.steps(), "no run of that length has been there"


def rates(kind, steps, length, start=None):
    """Learning rate and momentum of each step of an optimisation, from a snapshot of another one."""
    settings = TrainingSettings(lr_schedule={"kind": kind, "warmup_steps": 0 if kind == "one-cycle" else 3})
    torch.manual_seed(0)
    trained = Optimisation(block(1), torch.nn.Linear(2, 2), settings, 0.1, length)
    if start is not None:
        trained.restore(start)
    seen = []
    for _ in range(steps):
        group = json.loads(trained.snapshot().settings)["groups"][0]
        seen.append((group["lr"], group["betas"]))
        trained.step(trained.module(torch.ones(1, 2)).sum())
    return seen, trained.snapshot()


@pytest.mark.parametrize("kind", ["cosine", "one-cycle"])
@pytest.mark.parametrize("length", [30, 15])
def test_a_schedule_over_the_whole_run_goes_on_as_in_a_run_of_the_new_length(kind, length):
    so_far, snapshot = rates(kind, 12, 20)
    ahead, end = rates(kind, length - 12, length, snapshot)
    whole, wanted = rates(kind, length, length)
    assert ahead == whole[12:]
    assert so_far != whole[:12]
    assert json.loads(end.settings)["schedule"] == json.loads(wanted.settings)["schedule"]


@pytest.mark.parametrize("kind", ["cosine", "one-cycle"])
def test_what_becomes_of_such_a_schedule_is_told_and_written_down(copied_run, kind):
    run, said = copied_run(*EVERY_4, f"training.lr_schedule.kind={kind}"), []
    api.resume(str(run), ["training.max_steps=24"], watcher=api.Watcher(say=said.append))
    told = (
        f"the run ends at step 24, no longer at step 12; from here on the learning rates are those of "
        f"training.lr_schedule.kind={kind} over 24 steps, so the weights are not those of a run that was begun with "
        "that length"
    )
    assert told in said
    assert told in texts(run)
    api.resume(str(run), watcher=api.Watcher(say=said.append))
    assert said.count(told) == texts(run).count(told) == 1, "only when the length changes"


@pytest.mark.usefixtures("undrawn")
def test_a_longer_run_is_still_the_same_run(copied_run):
    run = copied_run(*EVERY_4)
    api.resume(str(run), ["training.max_steps=24"])
    (change,) = run.changes()
    assert (change.setting, change.from_step["block-01"]) == ("training.max_steps=24", 12)
    assert run.checkpoints.manifest().changes == (change,)
    contents = api.inspect(str(run))
    assert contents.warnings == ()
    assert contents.config.training.max_steps == 24
    assert {(each.step, each.final) for each in contents.latest.evaluations} == {(24, True)}
    assert api.evaluate(api.open_run(str(run))).step == 24
    assert api.report(str(run)).left_out is None
    finals = [each.step for each in run.metrics() if isinstance(each, Evaluated) and each.final]
    assert sorted(set(finals)) == [12, 24]


def test_a_run_may_end_where_it_stands_and_is_measured_as_a_whole(copied_run):
    run = copied_run(*EVERY_4)
    wanted = state_of(copied_run(*EVERY_4, "training.max_steps=8", name="short"))
    shutil.rmtree(f"{run}/checkpoints/step-00000012")
    outcome = api.resume(str(run), ["training.max_steps=8"])
    assert (outcome.step, outcome.evaluation.step, outcome.evaluation.final) == (8, 8, True)
    assert state_of(run) == wanted
    assert {each.final for each in api.inspect(str(run)).latest.evaluations} == {True}
    assert len(outcome.evaluation.results) == 3


@pytest.mark.parametrize("setting", ["training.max_steps=11", "training.epochs=1"])
def test_a_run_is_not_made_shorter_than_what_is_done(copied_run, setting):
    steps = ["training.max_steps=null", "training.epochs=2"] if "epochs" in setting else []
    run = copied_run(*EVERY_4, *steps)
    with pytest.raises(UserError, match=rf"{setting}: makes \d+ steps, and .*run has done \d+; a run ends at or after"):
        api.resume(str(run), [setting])
    assert run.changes() == []


def test_nothing_but_the_length_can_change(copied_run):
    run = copied_run(*EVERY_4)
    with pytest.raises(UserError, match=r"training.batch_size=8: .* and the length of the run"):
        api.resume(str(run), ["training.max_steps=24", "training.batch_size=8"])
    assert run.changes() == []
