"""What one can do with runs: train, resume, load, evaluate, merge. The command line is built on these functions.

A run lives in a run directory: a local path, or a URI such as s3://bucket/run. Where that cannot be read or written,
every function raises an OSError whose text is one line that names the file and the reason.

To import this takes a second or two, for it imports torch; Ray is imported when a run starts on it.
"""

from noprop_dist.api.result import Checkpoint, NamedRun, Result
from noprop_dist.api.runs import MergedRun, PlannedRun, RunContents, inspect, merge, pack, plan, report, resume_command
from noprop_dist.api.trained import RunEvaluation, evaluate, export, load, open_run, predict, predict_into
from noprop_dist.api.training import check_same_run, default_run_dir, resume, train
from noprop_dist.api.watcher import ProgressLines, Watcher
from noprop_dist.baseline.placement import Processes
from noprop_dist.inference.export import Exported
from noprop_dist.training.progress import RunProgress

__all__ = [
    "Checkpoint",
    "Exported",
    "MergedRun",
    "NamedRun",
    "PlannedRun",
    "Processes",
    "ProgressLines",
    "Result",
    "RunContents",
    "RunEvaluation",
    "RunProgress",
    "Watcher",
    "check_same_run",
    "default_run_dir",
    "evaluate",
    "export",
    "inspect",
    "load",
    "merge",
    "open_run",
    "pack",
    "plan",
    "predict",
    "predict_into",
    "report",
    "resume",
    "resume_command",
    "train",
]
