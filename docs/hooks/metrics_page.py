"""The reference of the metrics, from `noprop_dist/metrics`."""

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from noprop_dist.metrics.families import Families
from noprop_dist.metrics.live import LiveCollector

SUFFIX = {"counter": "_total"}


def metrics() -> str:
    """A row for each metric: name, type, labels, meaning."""
    families = [each for each in vars(Families(CollectorRegistry())).values() if isinstance(each, MetricWrapperBase)]
    rows = [(each._name, each._type, each._labelnames, each._documentation) for each in families]
    rows += [
        (each.name, each.type, each._labelnames, each.documentation)  # type: ignore[attr-defined]
        for each in LiveCollector("", list).collect()
    ]
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, meaning in sorted(rows):
        shown = ", ".join(f"`{label}`" for label in labels if label != "run")
        lines.append(f"| `{name}{SUFFIX.get(kind, '')}` | {kind} | {shown} | {meaning} |")
    return "\n".join(lines)
