"""What tests want to know of a run directory."""

from collections import Counter

from noprop_dist.records import EmbeddingUpdated, RoundDone
from noprop_dist.reporting.summary import of_kind
from noprop_dist.stages import EMBEDDING
from noprop_dist.storage.run_directory import RunDirectory


def fingerprints(folder, step=None):
    """SHA-256 of the weights of every stage at a checkpoint, of the last one by default."""
    return {entry.stage: entry.sha256 for entry in RunDirectory(str(folder)).checkpoints.manifest(step).stages}


def records_of(folder, kind):
    return of_kind(RunDirectory(str(folder)).metrics(), kind)


def rounds_of(folder, stage=None):
    """The rounds of one stage, or of all but W_embed."""
    return [each for each in records_of(folder, RoundDone) if stage in (None, each.stage)]


def steps_written(folder):
    """Steps that are written down, by stage; more than the run has where something is counted twice."""
    done = Counter()
    for each in rounds_of(folder):
        done[each.stage] += each.steps
    for each in records_of(folder, EmbeddingUpdated):
        done[EMBEDDING] += each.steps
    return done
