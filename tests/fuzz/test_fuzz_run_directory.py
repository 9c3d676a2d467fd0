"""A finished run of which files are damaged: every command that reads one says so, or does without them."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cases import Case, search
from damage import (
    BYTE_HOWS,
    HOWS,
    NOISE,
    SEEDS,
    STAND_INS,
    VALUES,
    change,
    damaged_bytes,
    damaged_lines,
    files_below,
    stand_in,
)
from hypothesis import strategies as st

from noprop_dist.config.yaml_text import parse_yaml

Damage = Callable[[Path, Path], None]
"""(run directory, folder that must stay as it is)."""


def _chosen(run: Path, choose: random.Random) -> Path:
    """A file of the run; those that are read first are chosen as often as the many snapshots."""
    files = files_below(run)
    if not files:
        return run / "config.yaml"
    first = [
        file for file in files if file.suffix in (".yaml", ".jsonl") or file.name in ("data.json", "manifest.json")
    ]
    return choose.choice(choose.choice([first or files, files]))


def _plain(seed: int, how: str, new: Any) -> Damage:
    def damage(run: Path, _: Path) -> None:
        choose = random.Random(seed)
        file = _chosen(run, choose)
        content = file.read_bytes() if file.is_file() else b"{}"
        try:
            if file.suffix == ".jsonl":
                file.write_bytes(damaged_lines(content, choose, choose.choice([how, "other"]), new))
            elif file.suffix == ".json":
                file.write_text(json.dumps(change(json.loads(content), choose, new, how)))
            elif file.suffix == ".yaml":
                values = json.loads(json.dumps(parse_yaml(content, "")))
                file.write_bytes(yaml.dump(change(values, choose, new, how)).encode(errors="surrogatepass"))
            else:
                file.write_bytes(_safetensors(content, choose, how, new))
        except (ValueError, RecursionError, yaml.YAMLError):
            return  # an earlier damage was at work here

    return damage


def _safetensors(content: bytes, choose: random.Random, how: str, new: Any) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8 : 8 + length]), choose, new, how)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _bytes(seed: int, how: str, noise: bytes) -> Damage:
    def damage(run: Path, _: Path) -> None:
        choose = random.Random(seed)
        file = _chosen(run, choose)
        if file.is_file():
            file.write_bytes(damaged_bytes(file.read_bytes(), choose, how, noise))

    return damage


def _stand_in(seed: int, kind: str) -> Damage:
    def damage(run: Path, beside: Path) -> None:
        choose = random.Random(seed)
        entries = sorted(entry for entry in run.rglob("*") if not entry.is_symlink())
        if choose.random() < 0.1:
            new = run / choose.choice(
                ["report.html", "plots", "run.lock", "changes.json", "metrics.bad.jsonl", "merge.unfinished"]
            )
            if not new.parent.is_dir() or new.is_symlink():
                return
            entries = [new]
        if entries:
            stand_in(choose.choice(entries), kind, beside)

    return damage


def _moved(seed: int, name: str) -> Damage:
    """A file or folder under another name, or twice."""

    def damage(run: Path, _: Path) -> None:
        choose = random.Random(seed)
        entries = sorted(
            entry for entry in run.rglob("*") if not entry.is_symlink() and (entry.is_dir() or entry.is_file())
        )
        if not entries:
            return
        entry = choose.choice(entries)
        other = choose.choice(entries)
        to = entry.parent / name if choose.random() < 0.7 else other
        if entry in to.parents or to in entry.parents or to == entry:
            return
        if to.is_dir():
            shutil.rmtree(to)
        else:
            to.unlink(missing_ok=True)
        if choose.random() < 0.5:
            entry.rename(to)
        elif entry.is_dir():
            shutil.copytree(
                entry, to, symlinks=True, copy_function=lambda a, b: shutil.copy2(a, b) if Path(a).is_file() else None
            )
        else:
            shutil.copy(entry, to)

    return damage


DAMAGES = st.one_of(
    st.builds(_plain, SEEDS, HOWS, VALUES),
    st.builds(_plain, SEEDS, HOWS, VALUES),
    st.builds(_bytes, SEEDS, BYTE_HOWS, NOISE),
    st.builds(_stand_in, SEEDS, st.sampled_from(sorted(STAND_INS))),
    st.builds(
        _moved,
        SEEDS,
        st.sampled_from(
            [
                *(
                    "step-00000003",
                    "step-00000004",
                    "step-99999999999999",
                    "step-0000000",
                    "step-00000004 ",
                    "block-01.json",
                ),
                *(
                    "block-03.json",
                    "block-00.json",
                    "block-123456789.json",
                    "network.json",
                    "manifest.json",
                    "config.yaml",
                ),
                *("changes.json", "merge.unfinished", "run.lock", "report.html", "plots", "a\nb", "\udcff", "é"),
            ]
        ),
    ),
)


def _with_its_checksums(run: Path) -> None:
    """Entries and manifests say of damaged files what is in them now, so that more than checksums is tried."""
    for file in files_below(run):
        if file.suffix != ".json" or not file.parent.name.startswith("step-"):
            continue
        try:
            values = json.loads(file.read_bytes())
            entries = values["stages"] if file.name == "manifest.json" else [values]
            for entry in entries:
                entry["files"] = {
                    name: hashlib.sha256(_read(file.parent / name)).hexdigest() for name in entry["files"]
                }
            values.pop("sha256_of_this", None)
            file.write_text(json.dumps(values))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue


def _read(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _of_no_known_run(run: Path) -> None:
    """Entries and manifests say nothing of which run they are, as those of older versions."""
    (run / "identity.json").unlink(missing_ok=True)
    for file in files_below(run / "checkpoints") if (run / "checkpoints").is_dir() else ():
        if file.suffix == ".json":
            try:
                values = json.loads(file.read_bytes())
                for key in ("run", "sha256_of_this"):
                    values.pop(key, None)
                file.write_text(json.dumps(values))
            except (OSError, ValueError, TypeError, AttributeError, RecursionError):
                continue


FRESH = ["--set", "engine.kind=sequential", "--set", "data.download=false", "--set", "engine.device=auto"]
COMMANDS = [
    ["inspect", "RUN"],
    ["inspect", "RUN", "--json"],
    ["compare", "RUN", "other", "--group"],
    ["compare", "RUN", "other", "--json"],
    ["compare", "RUN", "--markdown"],
    ["evaluate", "RUN"],
    ["evaluate", "RUN", "--per-block", "--passes", "2", "--json"],
    ["predict", "RUN", "image.png"],
    ["resume", "RUN", *FRESH],
    ["resume", "RUN", *FRESH, "--set", "blocks.training.1.learning_rate=0.5"],
    ["merge", "merged", "RUN", "other"],
    ["merge", "RUN", "first", "other"],
    ["plan", "--run-dir", "RUN"],
]
PLACES = st.sampled_from(
    ["run"] * 9
    + ["\udcff", "é", "[red]", "a\nb", "\x1b[31m", "x" * 250, "-run", "s3:", "~x", "%41", "a b", "$x^{", "a#?b"]
)
NAMES_OF_RUNS = st.sampled_from(["whole", "whole", "learned", "first", "unfinished", "unfinished"])
CASES = {
    "name": NAMES_OF_RUNS,
    "place": PLACES,
    "damages": st.lists(DAMAGES, min_size=1, max_size=3),
    "with_its_checksums": st.booleans(),
    "of_no_known_run": st.booleans(),
}


@pytest.fixture(scope="session")
def try_on(runs: Path) -> Callable[..., None]:
    from PIL import Image

    def attempt(
        case: Case,
        name: str,
        place: str,
        damages: list[Damage],
        with_its_checksums: bool,
        of_no_known_run: bool,
        command: list[str],
    ) -> None:
        run = case.own / place
        _copy(runs, name, run)
        shutil.copytree(runs / "second", case.own / "other")
        shutil.copytree(runs / "first", case.own / "first")
        Image.new("L", (4, 4)).save(case.own / "image.png")
        for damage in damages:
            damage(run, case.beside)
        if with_its_checksums:
            _with_its_checksums(run)
        if of_no_known_run:
            _of_no_known_run(run)
        if command[0] not in ("inspect", "compare", "plan") and _trains_long(run):
            return
        case.run(*(f"./{place}" if part == "RUN" else part for part in command))

    return attempt


def _copy(runs: Path, name: str, run: Path) -> None:
    """A run, or one that was stopped before its end."""
    shutil.copytree(runs / ("whole" if name == "unfinished" else name), run)
    if name == "unfinished":
        shutil.rmtree(run / "checkpoints" / "step-00000004")


def _trains_long(run: Path) -> bool:
    """Whether a damaged configuration asks for more than a case may take, as it has a right to."""
    try:
        values = parse_yaml(_read(run / "config.yaml"), "")
        sizes = [values["training"]["max_steps"] or values["training"]["epochs"], values["blocks"]["count"]]
        return any(isinstance(size, int) and size > 100 for size in sizes)
    except (OSError, ValueError, LookupError, TypeError):
        return False


@pytest.mark.parametrize("examples", [pytest.param(30, id="few"), pytest.param(120, id="many", marks=pytest.mark.slow)])
def test_a_damaged_run_is_told_in_one_sentence(try_on: Callable[..., None], examples: int) -> None:
    search(try_on, examples, **CASES, command=st.sampled_from(COMMANDS))


@pytest.mark.slow
def test_a_report_of_a_damaged_run_is_written_or_refused(try_on: Callable[..., None]) -> None:
    search(try_on, 5, **CASES, command=st.just(["report", "RUN"]))
