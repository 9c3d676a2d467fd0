"""Archives and packed folders of any content: they are read, or refused in a sentence that names them."""

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import TINY, Case, search
from damage import BYTE_HOWS, HOWS, NOISE, SEEDS, STAND_INS, VALUES, change, damaged_bytes, files_below, stand_in
from hypothesis import strategies as st

from noprop_dist.cli.app import main

DTYPES = st.sampled_from(
    [
        *(
            "u1",
            "u1",
            "<f4",
            ">f4",
            "<f8",
            "<f2",
            ">f2",
            "g",
            "i1",
            "<i8",
            ">i8",
            "<i8",
            "<u8",
            ">u2",
            "?",
            "c8",
            "O",
            "S3",
            "U2",
            ">U2",
            "V4",
        ),
        *("M8[s]", "m8[D]", "u1,f4", [("x", "<f4", (2,))], [("x", "O")]),
    ]
)
SHAPES = st.one_of(
    st.tuples(st.sampled_from([12, 24]), st.just(1), st.just(2), st.just(2)),
    st.tuples(st.sampled_from([12, 24]), st.integers(1, 4)),
    st.tuples(st.sampled_from([12, 24]), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 3, 4])),
    st.tuples(st.sampled_from([12, 24])),
    st.lists(st.integers(0, 3), max_size=6).map(tuple),
)
FILLS = st.sampled_from(["zeros", "labels", "noise", "bytes", "nan", "inf", "huge", "negative", "top"])


def _filled(dtype: Any, shape: tuple[int, ...], fill: str, seed: int) -> np.ndarray:
    size, kind = int(np.prod(shape)), np.dtype(dtype)
    if kind.hasobject:
        return np.full(shape, None, dtype)
    draw = np.random.default_rng(seed)
    if fill == "bytes":
        return (
            np.frombuffer(draw.bytes(size * kind.itemsize), kind).reshape(shape)
            if kind.itemsize
            else np.zeros(shape, kind)
        )
    values = {
        "zeros": np.zeros(size),
        "labels": np.arange(size) % 3,
        "noise": draw.integers(0, 200, size),
        "nan": np.full(size, np.nan),
        "inf": np.full(size, -np.inf),
        "huge": np.full(size, 1e300),
        "negative": np.full(size, -1),
        "top": np.full(size, np.iinfo(kind).max if kind.kind in "iu" else 1e38),
    }[fill]
    with np.errstate(all="ignore"):
        try:
            return values.astype(kind).reshape(shape)
        except (TypeError, ValueError):
            return np.zeros(shape, kind)


ARRAYS = st.builds(_filled, DTYPES, SHAPES, FILLS, SEEDS)
IMAGES = st.builds(
    _filled,
    st.sampled_from(["u1", "<f4", ">f8", "<f2"]),
    st.sampled_from([(24, 1, 2, 2), (24, 2, 2), (24, 3), (24, 2, 2, 3), (24, 2, 2, 4), (24, 1, 1), (24, 3, 2, 2)]),
    FILLS,
    SEEDS,
)
LABELS = st.builds(
    _filled,
    st.sampled_from(["<i8", ">i8", "u1", "<u8", "i1"]),
    st.just((24,)),
    st.sampled_from(["labels", "labels", "labels", "zeros", "noise", "negative", "top"]),
    SEEDS,
)
HEADERS = st.sampled_from(
    [
        *(
            "{'descr': '|u1', 'fortran_order': False, 'shape': (10**15,), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 2, 2), }",
        ),
        *(
            "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 2, 2), }",
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2, 2), }",
            "{}",
        ),
        *(
            "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
            "{'descr': 'x', 'fortran_order': 3, 'shape': 4}",
            "(" * 5000,
            "[" * 200,
            "'" * 9,
        ),
        *(
            "{'descr': '|u1', 'fortran_order': False, 'shape': (2.5,), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 2, 2), }",
        ),
        *(
            "{'descr': '|V0', 'fortran_order': False, 'shape': (9999999999, 2), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 9999999999, 9999999999), }",
        ),
        *(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 0), }",
            "{'descr': ('<f4', (10**9,)), 'fortran_order': False, 'shape': (1,), }",
            " " * 70_000,
        ),
        *(
            "__import__('os').system('echo')",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (9" + "9" * 5000 + ",)}",
            "\x1b[31m",
            "{'descr': '\x1b[31m'}",
        ),
    ]
)


def _npy(header: str, version: int, body: bytes) -> bytes:
    text = header.encode("latin-1") + b"\n"
    length = (
        len(text).to_bytes(2 if version == 1 else 4, "little") if len(text) < 2**16 or version != 1 else b"\xff\xff"
    )
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + body


def _saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


MEMBERS = st.one_of(
    ARRAYS.map(_saved),
    st.builds(_npy, HEADERS, st.sampled_from([1, 2, 3, 4, 255]), st.binary(max_size=40)),
    NOISE,
    st.sampled_from([b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff", b"\x80\x04\x95", b"cos\nsystem\n(S'echo'\ntR."]),
)
NAMES = st.sampled_from(
    [
        *(
            "x_train.npy",
            "y_train.npy",
            "x_test.npy",
            "y_test.npy",
            "x_val.npy",
            "y_val.npy",
            "x_train",
            "../x_train.npy",
            "/x_train.npy",
            "a/b.npy",
        ),
        *("\x1b[31m.npy", "[red].npy", "é.npy", "x" * 300, ".npy", "a/", "x_.npy", "x_train.npy.npy"),
    ]
)
ARCHIVES = st.fixed_dictionaries(
    {
        "images": IMAGES.map(_saved) | MEMBERS,
        "labels": LABELS.map(_saved) | MEMBERS,
        "others": st.lists(st.tuples(NAMES, IMAGES.map(_saved) | LABELS.map(_saved) | MEMBERS), max_size=3),
        "packed": st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]),
        "damage": st.none() | st.tuples(SEEDS, BYTE_HOWS, NOISE),
    }
)


def _archive(images: bytes, labels: bytes, others: list[tuple[str, bytes]], packed: int, damage: Any) -> bytes:
    import warnings

    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", packed) as archive:
        warnings.simplefilter("ignore")  # a name that stands twice
        for name, content in [("x_train.npy", images), ("y_train.npy", labels), *others]:
            archive.writestr(name, content)
    content = stream.getvalue()
    return content if damage is None else damaged_bytes(content, random.Random(damage[0]), *damage[1:])


def _options(*settings: str) -> list[str]:
    return [part for setting in (*settings, *TINY) for part in ("--set", setting)]


OPTIONS = st.sampled_from(
    [
        [],
        [],
        ["data.classes=3"],
        ["data.classes=1"],
        ["embedding.kind=prototype"],
        ["data.validation_fraction=0.4"],
        ["data.augment.flip=true"],
        ["blocks.network={kind: small-conv}"],
        ["blocks.network={kind: paper}"],
        ["blocks.network={kind: torchvision}"],
    ]
)
COMMANDS = st.sampled_from(["plan", "train", "pack"])


def _of_archive(case: Case, archive: dict[str, Any], options: list[str], command: str) -> None:
    (case.own / "data.npz").write_bytes(_archive(**archive))
    place = {"train": ["--run-dir", "run"], "pack": ["packed"], "plan": []}[command]
    if options and "torchvision" in options[0] and command == "train":
        command, place = "plan", []
    settings = _options("data.name=npz", "data.root=data.npz")
    case.run(command, *place, *settings, *[part for option in options for part in ("--set", option)])


@pytest.mark.parametrize("examples", [pytest.param(25, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)])
def test_an_archive_is_read_or_refused_in_one_sentence(examples: int) -> None:
    search(_of_archive, examples, archive=ARCHIVES, options=OPTIONS, command=COMMANDS)


@pytest.fixture(scope="session")
def packed(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "packed"
    with pytest.raises(SystemExit):
        main(["pack", str(folder), "--set", "data.name=npz", "--set", f"data.root={data_file}"])
    return folder


def _damage(file: Path, seed: int, how: str, new: Any, noise: bytes, byte_how: str) -> None:
    choose = random.Random(seed)
    content = file.read_bytes()
    if file.suffix == ".json":
        try:
            file.write_text(json.dumps(change(json.loads(content), choose, new, how)))
        except (ValueError, RecursionError):
            return
    else:
        file.write_bytes(damaged_bytes(content, choose, byte_how, noise))


DAMAGES = st.lists(
    st.one_of(
        st.tuples(st.just("value"), SEEDS, HOWS, VALUES, NOISE, BYTE_HOWS),
        st.tuples(st.just("array"), SEEDS, MEMBERS),
        st.tuples(st.just("stand-in"), SEEDS, st.sampled_from(sorted(STAND_INS))),
    ),
    min_size=1,
    max_size=2,
)


@pytest.mark.parametrize("examples", [pytest.param(12, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)])
def test_a_packed_folder_is_read_or_refused_in_one_sentence(packed: Path, examples: int) -> None:
    import shutil

    def attempt(case: Case, damages: list[Any], command: str) -> None:
        shutil.copytree(packed, case.own / "data")
        for kind, seed, *how in damages:
            files = files_below(case.own / "data")
            if not files:
                continue
            file = random.Random(seed).choice([*files, *[each for each in files if each.suffix == ".json"] * 4])
            if kind == "value":
                _damage(file, seed, *how)
            elif kind == "array":
                file.write_bytes(how[0])
            else:
                stand_in(file, how[0], case.beside)
        case.run(
            *[command] if command == "plan" else [command, "--run-dir", "run"],
            *_options("data.name=packed", "data.root=data"),
        )

    search(attempt, examples, damages=DAMAGES, command=st.sampled_from(["plan", "train"]))
