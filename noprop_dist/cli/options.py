"""What several commands share: options that are checked, and lines on standard error."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from noprop_dist.cli.terminal import Terminal
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import RunConfig
from noprop_dist.errors import UserError

if TYPE_CHECKING:  # it imports torch
    from noprop_dist.api.types import Sampler


def configured(
    preset: str | None,
    file: Path | None,
    settings: Sequence[str],
    engine: str | None = None,
    address: str | None = None,
    method: str | None = None,
) -> RunConfig:
    """The configuration that the options of `train` and `plan` describe.

    Raises:
        UserError: a layer cannot be read, or what it says is not allowed.
    """
    options = [f"engine.kind={engine}"] if engine else []
    options += [f"method={method}"] if method else []
    return load_config(preset, file, [*settings, *options, *address_setting(address)], lambda line: warn([line]))


def address_setting(address: str | None) -> list[str]:
    """The option `--address` as a setting."""
    return [f'engine.address="{address}"'] if address else []


def checked_sampler(sampler: str, passes: int) -> "Sampler":
    """The options `--sampler` and `--passes`.

    Raises:
        UserError: they are not allowed.
    """
    if passes < 1:
        raise UserError(f"--passes {passes}: must be at least 1")
    if sampler == "mean":
        return "mean"
    if sampler == "stochastic":
        return "stochastic"
    raise UserError(f"--sampler {sampler}: allowed are stochastic and mean")


def warn(lines: Iterable[str]) -> None:
    """Print warnings on standard error."""
    for line in lines:
        Terminal(stderr=True).print(line, style="yellow")
