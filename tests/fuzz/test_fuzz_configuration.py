"""Settings of every kind, in files and on the command line: they are taken, or refused in a sentence."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import yaml
from cases import Case, search
from damage import NOISE, NUMBERS, TEXTS, VALUES
from hypothesis import strategies as st
from pydantic import BaseModel

from noprop_dist.config.schema import NetworkSettings, RunConfig

SECTIONS_OF_KINDS = get_args(get_args(NetworkSettings)[0])


def _settings(section: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(key, annotation) of every setting of the schema, and of every section."""
    for name, field in section.model_fields.items():
        key = (*above, name)
        if name != "networks":
            yield key, field.annotation
        kinds = SECTIONS_OF_KINDS if name in ("network", "networks") else [field.annotation]
        if name in ("networks", "training") and above == ("blocks",):
            key = (*key, "1")
            kinds = kinds if name == "networks" else [get_args(field.annotation)[1]]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _settings(kind, key)


SCHEMA = dict(_settings(RunConfig))
KEYS = st.one_of(
    st.sampled_from(list(SCHEMA)),
    st.sampled_from(list(SCHEMA)),
    st.lists(TEXTS | st.sampled_from(sorted({part for key in SCHEMA for part in key})), min_size=1, max_size=4).map(
        tuple
    ),
)


def _words(annotation: Any) -> Iterator[str]:
    for part in get_args(annotation):
        if isinstance(part, str):
            yield part
        yield from _words(part)


WORDS = sorted({word for each in SCHEMA.values() for word in _words(each)})
MEANT = st.one_of(
    st.integers(1, 12),
    st.floats(1e-4, 2),
    st.sampled_from(WORDS),
    st.booleans(),
    st.lists(st.integers(1, 4), max_size=4),
)
ROOTS = st.sampled_from(
    [
        *(
            "nothing",
            "",
            ".",
            "..",
            "~",
            "~nobody",
            "own.npz",
            "/dev/zero",
            "/dev/full",
            "/dev/null",
            "/dev/stdin",
            "/dev/tty",
        ),
        *("x" * 300, "a/" * 3000, "a\nb", "\x1b[31m", "s3://a:b@c/d", "http://x", "file:///", "\0", "/proc/self/mem"),
    ]
)


@st.composite
def _setting(draw: st.DrawFn) -> tuple[tuple[str, ...], Any]:
    key = draw(KEYS)
    if key == ("data", "root"):
        return key, draw(ROOTS | VALUES)
    words = sorted(set(_words(SCHEMA.get(key))))
    return key, draw(st.one_of(*([st.sampled_from(words)] if words else []), MEANT, VALUES))


SETTINGS = _setting()


def _nested(settings: list[tuple[tuple[str, ...], Any]]) -> dict[Any, Any]:
    whole: dict[Any, Any] = {}
    for key, value in settings:
        *above, last = (int(part) if part.isdigit() and len(part) < 10 else part for part in key)
        section = whole
        for part in above:
            inner = section.get(part)
            section[part] = section = inner if isinstance(inner, dict) else {}
        section[last] = value
    return whole


def _yaml(value: Any) -> bytes:
    return yaml.dump(value, allow_unicode=True).encode(errors="surrogatepass")


FRAGMENTS = st.sampled_from(
    [
        *(
            "seed: 1",
            "seed: 1\nseed: 2",
            "seed: !!python/object/apply:os.system [echo]",
            "seed: !!binary aGk=",
            "seed: !x 1",
        ),
        *(
            "a: &a [*a]",
            "a: &a {b: *a}",
            "&a seed: *a",
            "seed: *b",
            "<<: {seed: 1}",
            "<<: [1, 2]",
            "<<: *x",
            "--- 1\n--- 2",
            "%YAML 3.0\n---\nseed: 1",
        ),
        "a: &a [1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]",
        "a: &a [1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c]\n"
        "e: &e [*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f]",
        *(
            "? [1, 2]\n: 3",
            "? {a: 1}\n: 3",
            "{1: 2, true: 3, null: 4, 1.5: 6}",
            "seed:\t1",
            "\tseed: 1",
            "seed: |\n  a\n b",
            "blocks:\n count: 3\n  only: 1",
        ),
        *(
            "seed: 2024-01-01",
            "seed: !!timestamp 2024-13-45",
            "seed: !!int x",
            "seed: !!float x",
            "seed: !!set {a, b}",
            "seed: !!omap [1]",
            "seed: !!pairs [1]",
        ),
        *(
            "seed: 0o9",
            "seed: 0x",
            "seed: 1_000",
            "seed: 1:30",
            "seed: " + "9" * 390,
            "seed: " + "9" * 5000,
            "seed: -0",
            "seed: +1",
            "seed: .",
            "seed: -.inf",
        ),
        *(
            "[" * 500,
            "{" * 500,
            "[" * 50_000,
            "- " * 5000,
            "a: " * 500,
            "? " * 500,
            "&a " * 50,
            "!a " * 50,
            "'" + "a" * 10_000,
            '"\\x1b[31m"',
            '"\\ud800"',
            "'\u2028'",
        ),
        *(
            "blocks.count: 3",
            "blocks: 3",
            "blocks: [1]",
            "blocks: {network: mlp}",
            "blocks: {networks: [1]}",
            "blocks: {networks: {1: mlp, x: {}, 1.5: {}, true: {}}}",
        ),
        *(
            "{null: 1}",
            "{[1]: 1}",
            "data: {root: null, name: npz}",
            "data: {root: 5, name: npz}",
            "schedule: {kind: list, alpha_bar: [0.1, 0.5, .nan]}",
        ),
        *(
            "blocks: {count: 10000}",
            "blocks: {only: 1-99999999}",
            "blocks: {only: '1-99999,1-99999'}",
            "blocks: {only: '٣'}",
            "blocks: {only: '²'}",
        ),
        *(
            "blocks: {network: {kind: mlp, width: 2147483647}}",
            "blocks: {network: {kind: mlp, depth: 20}}",
            "blocks: {network: {kind: small-conv, channels: [2147483647, 2147483647]}}",
        ),
        *(
            "embedding: {kind: learned, dim: 2147483647}",
            "training: {batch_size: 2147483647}",
            "data: {augment: {crop_padding: 1024}}",
            "training: {learning_rate: 1e308}",
        ),
        *(
            "blocks: {network: {kind: torchvision, backbone: x}}",
            "blocks: {network: {kind: custom, path: 'os:system'}}",
            "blocks: {network: {kind: custom, path: 'a.b:C'}}",
        ),
        *(
            "blocks: {network: {kind: custom, path: 'torch.nn:Linear', arguments: {a: [1, {b: .nan}]}}}",
            "blocks: {network: {kind: custom, path: '..:x'}}",
        ),
    ]
)
FILES = st.one_of(
    st.lists(SETTINGS, max_size=6).map(_nested).map(_yaml),
    VALUES.map(_yaml),
    NOISE,
    st.lists(FRAGMENTS, min_size=1, max_size=3).map("\n".join).map(lambda text: text.encode(errors="surrogatepass")),
    st.text().map(lambda text: text.encode(errors="surrogatepass")),
    st.sampled_from(["utf-16", "utf-32", "latin-1"]).map("seed: 1 # é".encode),
)


def _as_argument(setting: tuple[tuple[str, ...], Any]) -> str:
    key, value = setting
    return f"{'.'.join(key)}={_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    return yaml.dump(value, default_flow_style=True, width=10**9).strip().removesuffix("\n...")


ARGUMENTS = st.one_of(
    SETTINGS.map(_as_argument),
    SETTINGS.map(_as_argument),
    st.tuples(KEYS.map(".".join), TEXTS | NUMBERS.map(str) | FRAGMENTS).map("=".join),
    TEXTS,
).map(lambda text: text.replace("\0", "").encode(errors="replace").decode())
NOT_UTF8 = st.sampled_from(
    ["data.root=\udcff", "\udcff=1", "seed=\udce9", "blocks.network.path=\udc80:x", "metrics.host=\udcff"]
)

PINNED = [
    # No case may start Ray, download anything, or train what takes long.
    *("engine.kind=sequential", "engine.address=null", "data.download=false", "method=noprop"),
]
SMALL = ["training.max_steps=1", "blocks.count=2", "blocks.only=null", "evaluation.samples=4"]


def _options(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def _plan(case: Case, file: bytes | None, settings: list[str]) -> None:
    from_file = ["--config", "c.yaml"] if file is not None else []
    (case.own / "c.yaml").write_bytes(file or b"")
    case.run("plan", *from_file, *_options([*settings, *PINNED]))


def _train(case: Case, file: bytes | None, settings: list[str]) -> None:
    from_file = ["--config", "c.yaml"] if file is not None else []
    (case.own / "c.yaml").write_bytes(file or b"")
    case.run("train", "--run-dir", "run", *from_file, *_options([*settings, *PINNED, *SMALL]))


FEW_AND_MANY = pytest.mark.parametrize(
    "examples", [pytest.param(25, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)]
)


@FEW_AND_MANY
def test_settings_are_taken_or_refused_in_one_sentence(examples: int) -> None:
    search(_plan, examples, file=st.none() | FILES, settings=st.lists(ARGUMENTS | NOT_UTF8, max_size=4))


@pytest.mark.slow
def test_what_a_plan_takes_is_trained_or_refused_in_one_sentence() -> None:
    search(_train, 40, file=st.none() | FILES, settings=st.lists(ARGUMENTS | NOT_UTF8, max_size=4))


def _of_options(case: Case, options: list[str]) -> None:
    if any(option.startswith("--addr") for option in options):
        return  # joins a cluster
    case.run(
        "plan",
        *options,
        "--set",
        "engine.kind=sequential",
        "--set",
        "data.download=false",
        "--set",
        "engine.address=null",
    )


@pytest.mark.slow
def test_options_are_taken_or_refused_in_one_sentence() -> None:
    words = st.sampled_from(
        [
            "--preset",
            "--config",
            "--set",
            "--engine",
            "--run-dir",
            "--help",
            "digits",
            "mnist",
            "ray",
            ".",
            "c.yaml",
            "--",
            "-",
        ]
    )
    text = TEXTS.map(lambda text: text.replace("\0", "").encode(errors="replace").decode())
    search(_of_options, 40, options=st.lists(words | text | ARGUMENTS | NOT_UTF8, max_size=6))
