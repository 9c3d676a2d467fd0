"""The types of what the functions of `noprop_dist.api` take and return."""

from noprop_dist.engines.core.drawing import Drawing
from noprop_dist.engines.core.placement import Placement, WorkerPlace
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.evaluation import BlockEvaluation, Evaluation, ObjectiveTerms
from noprop_dist.inference.network import Sampler
from noprop_dist.records import Record, RoundDone
from noprop_dist.reporting.comparison import TextTable
from noprop_dist.reporting.summary import LatestMetrics
from noprop_dist.reporting.timeline import Span
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import Stage
from noprop_dist.storage.manifest import Manifest, SnapshotEntry
from noprop_dist.training.footprint import Footprint

__all__ = [
    "BlockEvaluation",
    "CheckpointEvaluation",
    "Drawing",
    "Evaluation",
    "Footprint",
    "LatestMetrics",
    "Manifest",
    "ObjectiveTerms",
    "Placement",
    "Record",
    "RoundDone",
    "RunPlan",
    "Sampler",
    "SnapshotEntry",
    "Span",
    "Stage",
    "TextTable",
    "WorkerPlace",
]
