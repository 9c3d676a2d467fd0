"""The reference of the public names, from `noprop_dist.__all__`: mkdocstrings takes the texts from the code."""

import inspect
from collections.abc import Iterator

import noprop_dist

GROUPS = {
    "Train": ("RunConfig", "train", "resume", "Result", "Checkpoint"),
    "Use a trained network": ("load", "NoPropClassifier", "evaluate", "predict", "export"),
    "Watch": ("Callback",),
    "Compare runs": ("compare", "Comparison", "RunFigures"),
    "Around training": ("inspect", "plan", "report", "merge", "pack", "slice_layers"),
    "Errors": ("UserError", "TrainingError"),
}


def api() -> str:
    """A section for each public name; one that no group names stands at the end."""
    named = {name for names in GROUPS.values() for name in names}
    others = tuple(name for name in noprop_dist.__all__ if name not in named)
    return "\n".join(line for title, names in {**GROUPS, "More": others}.items() for line in _group(title, names))


def _group(title: str, names: tuple[str, ...]) -> Iterator[str]:
    present = [name for name in names if name in noprop_dist.__all__]
    if present:
        yield from (f"## {title}", "")
    for name in present:
        found = getattr(noprop_dist, name)
        yield from (f"::: {found.__module__}.{found.__qualname__}", "    options:", f"      heading: {name}")
        if not inspect.isclass(found) or issubclass(found, Exception):
            yield "      members: false"
        elif name == "RunConfig":
            yield "      members: [preset]"
        yield ""
