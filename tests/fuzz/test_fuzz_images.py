"""Image files and folders of any content, to be classified and to learn from."""

import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import TINY, Case, search
from damage import BYTE_HOWS, NOISE, SEEDS, STAND_INS, damaged_bytes, stand_in
from hypothesis import strategies as st
from PIL import Image

from noprop_dist.api import train
from noprop_dist.config.layers import load_config

FORMATS = [
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "TIFF",
    "WEBP",
    "PPM",
    "ICO",
    "TGA",
    "PCX",
    "SGI",
    "DDS",
    "JPEG2000",
    "IM",
    "MSP",
    "ICNS",
    "SPIDER",
    "XBM",
    "QOI",
    "PDF",
    "EPS",
    "MPO",
    "AVIF",
    "BLP",
]
MODES = ["L", "RGB", "RGBA", "1", "P", "LA", "I", "F", "I;16", "CMYK", "YCbCr", "LAB", "HSV", "PA"]


def _image(format_: str, mode: str, size: tuple[int, int], seed: int, extra: str) -> bytes:
    """A picture in some format, grey where that cannot have the mode; nothing where it cannot be written at all."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    for kind in (mode, "L", "RGB"):
        stream = io.BytesIO()
        try:
            picture = (
                Image.new(kind, size, 7)
                if kind in ("F", "I", "I;16", "LAB", "HSV", "PA")
                else Image.fromarray(pixels).convert(kind)
            )
            options: dict[str, Any] = {}
            if extra == "exif":
                options["exif"] = _exif(seed % 12)
            elif extra == "frames":
                options |= {"save_all": True, "append_images": [picture] * 3}
            elif extra == "transparency":
                options["transparency"] = seed % 300
            picture.save(stream, format_, **options)
            return stream.getvalue()
        except (OSError, KeyError, ValueError, TypeError, AttributeError, struct.error, SystemError, MemoryError):
            continue
    return b""


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _png(width: int, height: int, depth: int, colour: int, body: bytes, chunk: tuple[bytes, bytes]) -> bytes:
    """A PNG of which any field may be a lie, with checksums that are right."""

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", head)
        + part(*chunk)
        + part(b"IDAT", zlib.compress(body))
        + part(b"IEND", b"")
    )


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
WHOLE = st.builds(
    _image,
    st.sampled_from(FORMATS),
    st.sampled_from(MODES),
    SIZES,
    SEEDS,
    st.sampled_from(["", "", "exif", "frames", "transparency"]),
)
PNGS = st.builds(
    _png,
    st.sampled_from([0, 1, 4, 2**16, 2**31 - 1, 2**32 - 1]),
    st.sampled_from([0, 1, 4, 2**11, 2**31]),
    st.sampled_from([0, 1, 2, 8, 16, 255]),
    st.sampled_from([0, 2, 3, 4, 6, 9]),
    st.binary(max_size=64),
    st.tuples(
        st.sampled_from(
            [b"tEXt", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"gAMA", b"pHYs", b"acTL", b"fcTL"]
        ),
        st.binary(max_size=32) | st.just(b"a\0\0" + zlib.compress(bytes(10**6))) | st.just(_exif(6)),
    ),
)
DAMAGED = st.builds(
    lambda content, seed, how, noise: damaged_bytes(content, random.Random(seed), how, noise),
    WHOLE,
    SEEDS,
    BYTE_HOWS,
    NOISE,
)
CONTENTS = st.one_of(WHOLE, DAMAGED, DAMAGED, PNGS, NOISE)
NAMES = st.sampled_from(
    [
        *(
            "a.png",
            "a.jpg",
            "a.PNG",
            "a.gif",
            "a.tiff",
            "a.webp",
            "a.txt",
            "a",
            ".a.png",
            "a.png.",
            "Thumbs.db",
            "\x1b[31m.png",
            "a\nb.png",
            "[red].png",
        ),
        *(
            "$x^{.png",
            "é.png",
            "\udcff.png",
            "x" * 250 + ".png",
            "-a.png",
            " .png",
            "a.eps",
            "a.pdf",
            "a.mpeg",
            "a.h5",
            "a.fli",
            "a.npy",
            "~.png",
            "%s{0}.png",
            "\u202e.png",
        ),
    ]
)


@pytest.fixture(scope="session")
def trained(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run on grey images, and one on colour."""
    root = tmp_path_factory.mktemp("colour")
    draw = np.random.default_rng(0)
    np.savez(root / "data.npz", x_train=draw.integers(0, 256, (30, 3, 4, 4), dtype=np.uint8), y_train=np.arange(30) % 3)
    train(load_config(None, None, [*TINY, "data.name=npz", f"data.root={root}/data.npz"]), str(root / "run"))
    return {"grey": str(runs / "whole"), "colour": str(root / "run")}


@pytest.mark.parametrize("examples", [pytest.param(25, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)])
def test_a_picture_is_classified_or_refused_in_one_sentence(trained: dict[str, str], examples: int) -> None:
    def attempt(case: Case, run: str, pictures: list[tuple[str, bytes]], kind: str | None, as_json: bool) -> None:
        names = []
        for name, content in pictures:
            (case.own / name).write_bytes(content)
            names.append(f"./{name}")
        if kind is not None:
            stand_in(case.own / pictures[0][0], kind, case.beside)
        case.run("predict", trained[run], *names, *["--json"] * as_json)

    search(
        attempt,
        examples,
        run=st.sampled_from(["grey", "colour"]),
        pictures=st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=2, unique_by=lambda each: each[0]),
        kind=st.sampled_from([None] * 12 + sorted(STAND_INS)),
        as_json=st.booleans(),
    )


FOLDERS = st.sampled_from(
    [
        "cats",
        "dogs",
        "train/cats",
        "train/dogs",
        "test/cats",
        "test/dogs",
        "val/cats",
        "cats/more",
        ".git",
        "__MACOSX",
        "a\x1b[31m",
        "\udcff",
        "[red]",
        "$x^{",
        "cats/train",
        "x" * 255,
        "Train/cats",
        ".",
    ]
)
EXTRAS = st.lists(
    st.tuples(FOLDERS, NAMES, CONTENTS | st.sampled_from(sorted(STAND_INS)) | st.just("link up")), max_size=4
)


@pytest.mark.parametrize("examples", [pytest.param(12, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)])
def test_a_folder_of_images_is_learned_from_or_refused_in_one_sentence(examples: int) -> None:
    plain = [_image("PNG", "L", (4, 4), seed, "") for seed in range(6)]

    def attempt(case: Case, classes: list[str], extras: list[Any], size: bool, command: str, reports: bool) -> None:
        root = case.own / "data"
        for name in classes:
            (root / name).mkdir(parents=True, exist_ok=True)
            for number, content in enumerate(plain):
                (root / name / f"{number}.png").write_bytes(content)
        for folder, name, content in extras:
            _add(root / folder, name, content, case.beside)
        settings = [
            "data.name=image-folder",
            "data.root=data",
            "data.test_fraction=0.3",
            "data.validation_fraction=0.3",
            *TINY,
        ]
        settings += ["data.image_size=5"] * size
        place = {"train": ["--run-dir", "run"], "pack": ["packed"], "plan": []}[command]
        if (
            case.run(command, *place, *[part for setting in settings for part in ("--set", setting)]).code == 0
            and reports
        ):
            case.run("report" if command == "train" else "inspect", "run")

    search(
        attempt,
        examples,
        classes=st.lists(FOLDERS, min_size=1, max_size=3)
        | st.just(["cats", "dogs"])
        | st.just(["train/cats", "train/dogs"]),
        extras=EXTRAS,
        size=st.booleans(),
        command=st.sampled_from(["plan", "train", "pack"]),
        reports=st.sampled_from([False] * 5 + [True]),
    )


def _add(folder: Path, name: str, content: bytes | str, beside: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if content == "link up":
            (folder / name).symlink_to(os.pardir)
        elif isinstance(content, str):
            stand_in(folder / name, content, beside)
        else:
            (folder / name).write_bytes(content)
    except OSError:
        return  # an earlier one is in its place
