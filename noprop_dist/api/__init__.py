"""What one can do with runs: train, resume, load, evaluate, merge. The command line is built on these functions.

A run lives in a run directory: a local path, or a URI such as s3://bucket/run. Where that cannot be read or written,
every function raises an OSError whose text is one line that names the file and the reason.

The names are imported when they are first used: torch takes a second or two. Ray is imported when a run starts on it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noprop_dist.api.comparison import compare
    from noprop_dist.api.result import Checkpoint, NamedRun, Result
    from noprop_dist.api.runs import (
        MergedRun,
        PlannedRun,
        RunContents,
        inspect,
        merge,
        pack,
        plan,
        report,
        resume_command,
        timeline,
    )
    from noprop_dist.api.trained import RunEvaluation, evaluate, export, load, open_run, predict, predict_into
    from noprop_dist.api.training import check_same_run, default_run_dir, resume, train
    from noprop_dist.api.watcher import ProgressLines, Watcher
    from noprop_dist.baseline.placement import Processes
    from noprop_dist.inference.export import Exported
    from noprop_dist.reporting.comparison import Comparison
    from noprop_dist.reporting.run_figures import RunFigures
    from noprop_dist.training.progress import RunProgress

__all__ = [
    "Checkpoint",
    "Comparison",
    "Exported",
    "MergedRun",
    "NamedRun",
    "PlannedRun",
    "Processes",
    "ProgressLines",
    "Result",
    "RunContents",
    "RunEvaluation",
    "RunFigures",
    "RunProgress",
    "Watcher",
    "check_same_run",
    "compare",
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
    "timeline",
    "train",
]

_NAMES = {
    "noprop_dist.api.comparison": "compare",
    "noprop_dist.api.result": "Checkpoint NamedRun Result",
    "noprop_dist.api.runs": "MergedRun PlannedRun RunContents inspect merge pack plan report resume_command timeline",
    "noprop_dist.api.trained": "RunEvaluation evaluate export load open_run predict predict_into",
    "noprop_dist.api.training": "check_same_run default_run_dir resume train",
    "noprop_dist.api.watcher": "ProgressLines Watcher",
    "noprop_dist.baseline.placement": "Processes",
    "noprop_dist.inference.export": "Exported",
    "noprop_dist.reporting.comparison": "Comparison",
    "noprop_dist.reporting.run_figures": "RunFigures",
    "noprop_dist.training.progress": "RunProgress",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
