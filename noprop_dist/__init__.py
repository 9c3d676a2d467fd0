"""Distributed block-parallel training of NoProp networks (arXiv 2503.24322).

    import noprop_dist as npd

    result = npd.train(npd.RunConfig.preset("digits"))
    model = npd.load(result.path)
    model.predict(images)

T denoising blocks share no gradient, so each trains on its own device and none waits for another. The names below are
imported when they are first used: torch and Ray take seconds.

The packages, in the direction of their imports:

    cli → api → (engines, baseline) → training → inference → storage → run_plan → data → models → config → diffusion

`docs/explanation/architecture.md` says what each is for, and follows one batch and one snapshot through them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noprop_dist.api import (
        Checkpoint,
        Comparison,
        Result,
        RunFigures,
        compare,
        evaluate,
        export,
        inspect,
        load,
        merge,
        pack,
        plan,
        predict,
        report,
        resume,
        train,
    )
    from noprop_dist.config.schema import RunConfig
    from noprop_dist.config.sections.blocks import slice_layers
    from noprop_dist.errors import TrainingError, UserError
    from noprop_dist.inference.classifier import NoPropClassifier
    from noprop_dist.tracking.callback import Callback

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "Checkpoint",
    "Comparison",
    "NoPropClassifier",
    "Result",
    "RunConfig",
    "RunFigures",
    "TrainingError",
    "UserError",
    "compare",
    "evaluate",
    "export",
    "inspect",
    "load",
    "merge",
    "pack",
    "plan",
    "predict",
    "report",
    "resume",
    "slice_layers",
    "train",
]


_NOT_IN_API = {
    "Callback": "noprop_dist.tracking.callback",
    "NoPropClassifier": "noprop_dist.inference.classifier",
    "RunConfig": "noprop_dist.config.schema",
    "TrainingError": "noprop_dist.errors",
    "UserError": "noprop_dist.errors",
    "slice_layers": "noprop_dist.config.sections.blocks",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NOT_IN_API.get(name, "noprop_dist.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
