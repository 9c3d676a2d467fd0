"""The files in fixtures/: one for each run, and the fingerprints of all runs by kind of machine."""

import json
import platform
import re
from pathlib import Path
from typing import Any

import torch
from comparison import Outcome, changed_decisions, differences, largest_loss_change, shape

FOLDER = Path(__file__).parent / "fixtures"
FINGERPRINTS = FOLDER / "fingerprints.json"


def machine_kind() -> str:
    """What the bits of a result depend on, such as 'x86_64/AuthenticAMD-26-2/AVX512/torch 2.14.1+cpu'."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}/{_processor()}/{capability}/torch {torch.__version__}"


def pinned_runs() -> set[str]:
    return {file.stem for file in FOLDER.glob("*.json") if file != FINGERPRINTS}


def read(run: str) -> Outcome:
    return Outcome.from_json(json.loads((FOLDER / f"{run}.json").read_text()))


def read_fingerprints(run: str) -> dict[str, str] | None:
    """By stage; None if the run has none for this kind of machine."""
    return _all_fingerprints().get(machine_kind(), {}).get(run)


def rewrite(run: str, now: Outcome) -> str:
    """Pin a run as it is now.

    Returns:
        What changed, in one line.
    """
    before = read(run) if run in pinned_runs() else None
    fingerprints = _all_fingerprints()
    here = fingerprints.setdefault(machine_kind(), {})
    known = here.get(run)
    another = before is None or differences(before, now) or known not in (None, now.fingerprints)
    if another:
        _write(FOLDER / f"{run}.json", now.to_json())
        for kind in fingerprints.values():  # nobody knows what other kinds of machine make of the new run
            kind.pop(run, None)
    here[run] = now.fingerprints
    _write(FINGERPRINTS, {kind: runs for kind, runs in sorted(fingerprints.items()) if runs})
    return f"{run}: {_change(before, now)}, {_fingerprint_change(known, now.fingerprints)}"


def _change(before: Outcome | None, now: Outcome) -> str:
    if before is None:
        return "new run"
    if shape(before) != shape(now):
        return f"other rounds ({shape(now)} in place of {shape(before)})"
    return f"losses moved by {largest_loss_change(before, now):.1e}, {changed_decisions(before, now)} decisions changed"


def _fingerprint_change(known: dict[str, str] | None, now: dict[str, str]) -> str:
    if known is None:
        return f"{len(now)} fingerprints are new for {machine_kind()}"
    return f"{sum(known.get(stage) != fingerprint for stage, fingerprint in now.items())} fingerprints changed"


def _all_fingerprints() -> dict[str, dict[str, dict[str, str]]]:
    return json.loads(FINGERPRINTS.read_text()) if FINGERPRINTS.exists() else {}


def _write(file: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1)
    one_line_a_list = re.sub(r"\[[^][]*\]", lambda match: " ".join(match[0].split()), text)
    file.parent.mkdir(exist_ok=True)
    file.write_text(one_line_a_list + "\n")


def _processor() -> str:
    """Vendor, family and model: libraries choose their kernels by these, not by the instruction set alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or "unknown"
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    named = [facts[key] for key in ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part") if key in facts]
    return "-".join(named) or "unknown"
