"""A classifier as one file for other programs: the whole chain, with normalisation and noise in it.

| format | what is written | read by |
|---|---|---|
| torch-export | a .pt2 file with the graph | `torch.export.load(file).module()`, AOTInductor |
| onnx | an ONNX file | onnxruntime, and most other runtimes |
| safetensors | a folder, see `inference.pretrained` | `NoPropClassifier.from_pretrained` |

The graphs take `images`, as many as there are, of the dtype that the run was trained on, and give `log_probabilities`.
"""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import Tensor

from noprop_dist.errors import UserError
from noprop_dist.files import local_path
from noprop_dist.inference.classifier import NoPropClassifier
from noprop_dist.inference.pretrained import made_whole
from noprop_dist.random_streams import Purpose, stream

Noise = Literal["stored", "input"]
CHECKED = 5
"""Samples on which an exported file is compared with the network; another number than it was traced with."""
TRACED = 2
TOLERANCE = 1e-3
"""Largest difference of probabilities that another order of sums may make."""
LARGEST_ONNX = 2**31 - 1
"""Bytes of a protobuf message."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file or folder.
        bytes: that it takes.
        largest_difference: between its probabilities and the network's, over a few made-up samples; None if there
            was nothing to run it with.
        warnings: of damaged checkpoints that were passed over.
    """

    path: Path
    bytes: int
    largest_difference: float | None
    warnings: tuple[str, ...] = ()


def export_classifier(classifier: NoPropClassifier, format: str, out: str | Path, noise: str = "stored") -> Exported:  # noqa: A002
    """Write a classifier in a format that other programs read, and compare what was written with it.

    Args:
        classifier: with the sampler and the passes that are wanted; on the CPU.
        format: `torch-export`, `onnx` or `safetensors`.
        out: a new file, or a new folder for safetensors.
        noise: `stored` in it, or an `input` of the graph: `noise`, standard normal float32 (passes, T + 1, B, d), of
            which the `mean` sampler takes z_0 alone, (passes, 1, B, d).

    Raises:
        UserError: one of these is not allowed, `out` is there already, a package is missing, or a network cannot be
            exported.
        OSError: it cannot be written.
    """
    target = local_path(out)
    if format not in FORMATS:
        raise UserError(f"format {format}: allowed are {', '.join(FORMATS)}")
    if noise not in get_args(Noise):
        raise UserError(f"noise {noise}: allowed are {' and '.join(get_args(Noise))}")
    if not target.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {target.parent}")
    if format == "safetensors":
        if noise == "input":
            raise UserError("noise input: safetensors has no graph; the classifier that is read from it takes noise")
        classifier.save_pretrained(target)
        return Exported(target, _bytes(target), None)
    if target.is_dir():
        raise UserError(f"out={out}: is a folder; a new file is needed")
    write, read = FORMATS[format]
    with made_whole(target) as unfinished, _told(format), torch.no_grad():
        write(classifier, _samples(classifier, TRACED, noise), unfinished)
        difference = _largest_difference(classifier, read(unfinished), _samples(classifier, CHECKED, noise))
        if difference is not None and not difference <= TOLERANCE:  # NaN, too
            raise UserError(
                f"format {format}: its probabilities differ from the network's by up to {difference:.2g}: a network "
                "that draws at random, or goes by values of its input, cannot be exported"
            )
    return Exported(target, _bytes(target), difference)


@contextmanager
def _told(format: str) -> Iterator[None]:  # noqa: A002
    """Tell in one sentence what torch cannot export.

    Raises:
        UserError: as described.
    """
    try:
        with catch_warnings():
            simplefilter("ignore")  # torch's, of its own making
            yield
    except (UserError, OSError):
        raise
    except (Exception, SystemExit) as error:
        first = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"format {format}: this network cannot be exported: {first[:400]}") from error


def _samples(classifier: NoPropClassifier, count: int, noise: str) -> tuple[Tensor, ...]:
    """Made-up images, and noise where that is an input."""
    draw = stream(0, Purpose.EVALUATION, step=count)
    shape = (count, *classifier.input_shape)
    if classifier.input_dtype == "uint8":
        images = torch.from_numpy(draw.integers(256, size=shape, dtype=np.uint8))
    else:
        images = torch.from_numpy(draw.standard_normal(shape, dtype=np.float32)) * classifier.std + classifier.mean
    if noise == "stored":
        return (images,)
    passes, levels, _, d = classifier.noise.shape
    levels = levels if classifier.sampler == "stochastic" else 1
    return images, torch.from_numpy(draw.standard_normal((passes, levels, count, d), dtype=np.float32))


def _largest_difference(
    classifier: NoPropClassifier, exported: Callable[..., Tensor] | None, samples: tuple[Tensor, ...]
) -> float | None:
    """Between the probabilities of both."""
    if exported is None:
        return None
    return float((exported(*samples).exp() - classifier(*samples).exp()).abs().max())


def _batch_is_any(samples: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch")
    return ({0: batch}, {2: batch})[: len(samples)]


def _write_program(classifier: NoPropClassifier, samples: tuple[Tensor, ...], file: Path) -> None:
    program = torch.export.export(classifier, samples, dynamic_shapes=_batch_is_any(samples), strict=False)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"config.json": json.dumps(classifier.config())})
    file.write_bytes(content.getbuffer())


def _read_program(file: Path) -> Callable[..., Tensor]:
    with file.open("rb") as opened:
        return torch.export.load(opened).module()


def _write_onnx(classifier: NoPropClassifier, samples: tuple[Tensor, ...], file: Path) -> None:
    if not (find_spec("onnx") and find_spec("onnxscript")):
        raise UserError("format onnx: needs onnx and onnxscript: pip install noprop-dist[onnx]")
    size = sum(tensor.nbytes for tensor in classifier.state_dict().values())
    if size > LARGEST_ONNX:
        raise UserError(
            f"format onnx: an ONNX file holds at most 2 GiB, the weights take {size:,} bytes; use torch-export"
        )
    program = torch.onnx.export(
        classifier,
        samples,
        dynamic_shapes=_batch_is_any(samples),
        input_names=["images", "noise"][: len(samples)],
        output_names=["log_probabilities"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["config.json"] = json.dumps(classifier.config())
    file.write_bytes(program.model_proto.SerializeToString())


def _read_onnx(file: Path) -> Callable[..., Tensor] | None:
    if not find_spec("onnxruntime"):
        return None
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*samples: Tensor) -> Tensor:
        given = zip(names, samples, strict=True)
        return torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in given})[0])

    return run


def _bytes(path: Path) -> int:
    return sum(each.stat().st_size for each in (path.iterdir() if path.is_dir() else [path]))


FORMATS: dict[str, Any] = {
    "torch-export": (_write_program, _read_program),
    "onnx": (_write_onnx, _read_onnx),
    "safetensors": None,
}
