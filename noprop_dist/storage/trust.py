"""What a run directory may make this machine do: run a network's code, join a cluster, write elsewhere, open a port.

A run directory may be a stranger's. What its configuration names is done if this user has named it in a `train` on
this machine before, or gives `--trust-code`. What was named lies in the user's own state folder, where no run directory
can put anything.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from noprop_dist.config.effect import is_idle
from noprop_dist.config.schema import CustomNetwork, MetricsSettings, RunConfig
from noprop_dist.data.torchvision_sets import may_download, would_download
from noprop_dist.errors import UserError
from noprop_dist.files import JsonObject, parse_json, state_folder
from noprop_dist.models.custom import locate, never_import_from
from noprop_dist.storage.run_directory import RunDirectory

Deed = Mapping[str, Any]
"""Something that a configuration makes a machine do, as plain values."""


def check_networks(config: RunConfig, directory: RunDirectory, trusted: bool) -> None:
    """Check that a run's networks may be imported here; imports none.

    Args:
        config: of the run.
        directory: of the run; no network may lie in it, whoever names it.
        trusted: whether the user named the networks, or gave `--trust-code`.

    Raises:
        UserError: a network lies in the run directory, or is unknown and not trusted.
    """
    if directory.local_root is not None:
        never_import_from(directory.local_root)
    known = () if trusted else _known()
    for network in own_networks(config):
        deed = _import(network)
        if not trusted and deed not in known:
            what = f"evaluating or resuming it would import {network.path} ({deed['file'] or 'which lies in no file'})"
            raise _refusal(directory, what)


def check_settings(config: RunConfig, directory: RunDirectory, given: Sequence[str]) -> None:
    """Check settings of a run that reach out of its directory when it is resumed.

    Args:
        config: with which it goes on.
        directory: of the run.
        given: `key=value`, what the user says anew; that is not questioned.

    Raises:
        UserError: a cluster or a folder is unknown.
    """
    keys, known = {each.partition("=")[0] for each in given}, _known()
    for deed in _settings(config):
        ((key, value),) = deed.items()
        there = key == "data.root" and not would_download(config.data)
        if key not in keys and not there and deed not in known:
            raise _refusal(directory, f"resuming it would use {key}={value}", f", and so does a setting {key}=…")


def remember(config: RunConfig) -> None:
    """Note what a configuration of the user's own names. Where there is no home, nothing is noted."""
    known, deeds = _known(), [*_settings(config)]
    for network in own_networks(config):
        with suppress(UserError):  # it can be imported on the cluster alone
            deeds.append(_import(network))
    lines = "".join(json.dumps(deed, sort_keys=True) + "\n" for deed in deeds if deed not in known)
    file = _file()
    if not lines or file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb", buffering=0) as opened:  # noqa: PTH123 (a descriptor)
            opened.write(lines.encode())


def own_networks(config: RunConfig) -> list[CustomNetwork]:
    every = (config.blocks.network_of(t) for t in range(1, config.blocks.count + 1))
    custom = [network for network in every if isinstance(network, CustomNetwork)]
    return [network for number, network in enumerate(custom) if network not in custom[:number]]


def _import(network: CustomNetwork) -> dict[str, Any]:
    values = network.model_dump(mode="json", include={"path", "arguments"})
    return json.loads(json.dumps({**values, "file": locate(network.path)}))  # type: ignore[no-any-return]


def _settings(config: RunConfig) -> Iterator[dict[str, str]]:
    """The settings of a run that reach out of its directory and have an effect."""
    named = {
        "engine.address": config.engine.address,
        "metrics.discovery": config.metrics.discovery,
        "metrics.host": config.metrics.host if config.metrics.host != MetricsSettings().host else None,
        "training.init_from": config.training.init_from,
        "data.root": config.data.root if may_download(config.data) else None,
    }
    for key, value in named.items():
        if value is not None and not is_idle(config, key):
            yield {key: str(value)}


def _refusal(directory: RunDirectory, what: str, otherwise: str = "") -> UserError:
    return UserError(
        f"{directory}: {what}, which no `train` on this machine has named so far; --trust-code (trust_code=True) "
        f"allows it{otherwise}"
    )


def _file() -> Path | None:
    """Where deeds are noted, a JSON object a line; None without a home."""
    state = state_folder()
    return None if state is None else state / "trained-with.jsonl"


def _known() -> list[Any]:
    file = _file()
    if file is None:
        return []
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as opened:  # noqa: PTH123 (a descriptor)
            facts = os.fstat(descriptor)
            if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return []  # another user may have written it
            return [deed for line in opened for deed in _read(line)]
    except OSError:
        return []


def _read(line: bytes) -> Iterator[Any]:
    with suppress(ValueError):  # a line that was cut off
        yield parse_json(line, JsonObject)
