"""What a run is: the settings that change its bits, and its samples. Snapshots and manifests say of which run they are.

Settings are those that the run began with. What a `resume` changes (single stages, how long the run is) stands in
changes.json and is repeated by manifests; it makes no other run.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from noprop_dist.config.bits import shown, what_changes_bits
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataFacts
from noprop_dist.errors import UserError
from noprop_dist.models.custom import Source
from noprop_dist.stages import Stage

Identity = Mapping[str, Any]
"""Dotted key of a setting, or one of `SAMPLES`, → plain value; a long value is replaced by its fingerprint."""
SAMPLES = (
    *("samples.shape", "samples.classes", "samples.sha256", "samples.dtype", "samples.mean", "samples.std"),
    *("samples.test_sha256", "samples.validation_sha256"),
)
ADDED_LATER = SAMPLES[3:]
START = "training.init_from's weights"
"""Key of the fingerprints of the weights that a run began with; only where it began with those of another run."""
LONG = 120
OF_ONE_BLOCK = re.compile(r"blocks\.(?:networks|training)\.(\d+)\.")
DEFAULTS = what_changes_bits(RunConfig())


class OtherRunError(UserError):
    """A snapshot, or a whole checkpoint, is of another run than the one whose directory it lies in."""


def identity_of(config: RunConfig, facts: DataFacts, start: Mapping[str, str] | None = None) -> Identity:
    """The identity of a run.

    Args:
        config: that it begins with.
        facts: of its samples.
        start: fingerprints of the weights that it begins with, if they are those of another run.
    """
    values = (
        *(facts.input_shape, facts.class_names, facts.sha256, facts.dtype, facts.mean, facts.std),
        *(facts.test_sha256, facts.validation_sha256),
    )
    samples: dict[str, Any] = dict(zip(SAMPLES, values, strict=True))
    if start is not None:
        samples[START] = hashlib.sha256(json.dumps(start, sort_keys=True).encode()).hexdigest()
    return {key: _short(value) for key, value in {**what_changes_bits(config), **samples}.items()}


def of_stage(identity: Identity, stage: Stage) -> Identity:
    """What is left of an identity without the settings of other blocks, so that its size does not grow with T."""

    def concerns(key: str) -> bool:
        match = OF_ONE_BLOCK.match(key)
        return match is None or (stage.is_block and int(match[1]) == stage.index)

    return {key: value for key, value in identity.items() if concerns(key)}


def check_run(what: str, written: Identity, own: Identity) -> None:
    """Check that something is of the run in whose directory it lies.

    Args:
        what: it is, and where.
        written: the identity that it was written with. Settings that came into being later had their defaults then.
        own: of the run.

    Raises:
        OtherRunError: it is not; names the first difference.
    """
    for key, then, now in _differences(written, own):
        raise OtherRunError(
            f"{what} was trained with {key}={then}, and this run has {key}={now} ({_file_of(key)}): it is of another "
            "run, or that file was edited"
        )


def check_began(run: str, began: Identity, own: Identity) -> None:
    """Check that a run is still what it began as.

    Args:
        run: for people.
        began: its identity when it began.
        own: its identity now.

    Raises:
        OtherRunError: it is not; names the first difference.
    """
    for key, then, now in _differences(began, own):
        raise OtherRunError(
            f"{run}: the run began with {key}={then}, and {_file_of(key)} says {key}={now}: that file is damaged, or "
            "was edited"
        )


def _differences(written: Identity, own: Identity) -> Iterator[tuple[str, str, str]]:
    for key in dict.fromkeys([*own, *written]):
        then = written.get(key, DEFAULTS.get(key))
        if then != own.get(key) and (key in written or key not in ADDED_LATER):
            yield key, shown(then), shown(own.get(key))


def other_sources(run: str, written: Mapping[str, str], now: Mapping[str, Source]) -> list[str]:
    """A warning for each network of the user's own whose file has changed since it was trained.

    Args:
        run: whose networks they are, for people.
        written: SHA-256 of the sources that it was trained with, by import path; files of earlier versions lack it.
        now: the sources, by import path.
    """
    return [
        f"{run}: {source.file}, which defines {path} (module {source.module}), has changed since the run was trained: "
        f"its fingerprint was {written[path][:16]} and is {source.sha256[:16]}; what is computed now may be something "
        "else"
        for path, source in now.items()
        if written.get(path, source.sha256) != source.sha256
    ]


def _file_of(key: str) -> str:
    return "start.json" if key == START else "data.json" if key in SAMPLES else "config.yaml"


def _short(value: Any) -> Any:
    text = json.dumps(value, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if len(text) > LONG else json.loads(text)
