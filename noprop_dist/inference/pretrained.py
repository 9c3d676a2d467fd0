"""A classifier as a folder in Hugging Face's layout, and back. Reading one runs no code that the folder names.

config.json          what the networks are, and the SHA-256 of the weights
model.safetensors    weights, W_embed, coefficients, normalisation and noise
README.md            the model card
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from noprop_dist import __version__
from noprop_dist.config import schema
from noprop_dist.config.sections.base import Positive
from noprop_dist.errors import UserError, why
from noprop_dist.files import JsonObject, local_path, open_file, parse_json
from noprop_dist.inference.model_card import model_card
from noprop_dist.inference.network import Sampler
from noprop_dist.models.build import build_classifier, build_network
from noprop_dist.models.check import check_apart
from noprop_dist.models.custom import NetworkFactory, given_network, never_import_from
from noprop_dist.models.shapes import Shapes

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LARGEST_CONFIG = 16 * 2**20
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
PART = re.compile(r"^(?:(blocks\.[0-9]+|classifier)\.)?(.*)", re.DOTALL)
"""Takes every name."""
BUFFERS = ("embedding", "coefficients", "mean", "std", "noise")


class PretrainedConfig(BaseModel):
    """config.json, less what is only for people and for the Hub.

    Attributes:
        format: of the folder.
        model_type: of every such folder.
        input_shape: of a sample.
        input_dtype: that the network was trained on.
        embedding_dim: d.
        id2label: names of the m classes.
        sampler: `stochastic` or `mean`.
        blocks: number of blocks and their networks.
        classifier: its kind.
        weights_sha256: of model.safetensors.
        trained: what is told of the training.
        seed: of z_0 and ε.
        steps_per_block: k, steps that each block takes through its range of noise levels.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    format: Literal[1]
    model_type: Literal["noprop"]
    input_shape: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)]
    input_dtype: Literal["uint8", "float32"]
    embedding_dim: Positive
    id2label: Annotated[dict[int, str], Field(min_length=1)]
    sampler: Sampler
    blocks: schema.BlockSettings
    classifier: schema.ClassifierSettings
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    trained: dict[str, Any] = {}
    seed: int = 0
    steps_per_block: Positive = 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """m names."""
        return tuple(self.id2label[label] for label in range(len(self.id2label)))

    @property
    def card(self) -> dict[str, Any]:
        """See `NoPropClassifier`."""
        of_blocks = {"count", "network", "networks", "noise"}
        return self.model_dump(
            mode="json", include={"blocks": of_blocks, "classifier": True, "trained": True, "seed": True}
        )

    @property
    def shapes(self) -> Shapes:
        """That the networks have to fit."""
        return Shapes(self.input_shape, len(self.id2label), self.embedding_dim, self.takes_level)

    @property
    def takes_level(self) -> bool:
        """Return True if blocks are told the noise level of z."""
        return self.blocks.noise.is_wide


def write_pretrained(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write the folder, whole or not at all.

    Args:
        folder: new, or empty.
        config: of config.json, without the weights' SHA-256.
        state: of the classifier.

    Raises:
        UserError: the folder holds something.
        OSError: it cannot be written.
    """
    with made_whole(folder) as unfinished:
        unfinished.mkdir()
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
        weights = save(tensors, {"format": "pt"})
        (unfinished / WEIGHTS).write_bytes(weights)
        facts = {**config, "weights_sha256": hashlib.sha256(weights).hexdigest()}
        (unfinished / CONFIG).write_text(json.dumps(facts, indent=1) + "\n")
        (unfinished / CARD).write_text(model_card(config), encoding="utf-8")


@contextmanager
def made_whole(place: Path) -> Iterator[Path]:
    """A name beside a place, for what is moved there once it is complete. What lies there already stays.

    Raises:
        UserError: there is a file, or a folder that is not empty.
        OSError: it cannot be written.
    """
    if place.is_symlink() or (place.exists() and not (place.is_dir() and not any(place.iterdir()))):
        raise UserError(f"{place}: is there already, and nothing is overwritten; name another place")
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield beside / place.name
        (beside / place.name).rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


Built = tuple[PretrainedConfig, list[nn.Module], nn.Module, dict[str, Tensor]]


def read_pretrained(folder: Path, network: NetworkFactory | None, trust_code: bool) -> Built:
    """The configuration, the blocks and the classifier with their weights, and the buffers.

    What a configuration names is built only in the sizes that the file of weights has.

    Args:
        folder: that `write_pretrained` made.
        network: builds blocks of a user's own.
        trust_code: import the class that the folder names for them.

    Raises:
        UserError: a file is missing or damaged, they do not belong together, or a network of a user's own is neither
            handed over nor trusted.
    """
    config = _config(folder)
    _check_trust(folder, config, network, trust_code)
    weights = _weights(folder / WEIGHTS, config.weights_sha256)
    try:
        blocks, classifier, buffers = _build(config, weights, network)
    except (ValueError, RuntimeError, TypeError, LookupError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder}: {CONFIG} and {WEIGHTS} do not fit each other: {reason[:400]}") from error
    check_apart((f"block {t}", block) for t, block in enumerate(blocks, start=1))
    return config, blocks, classifier, buffers


def pretrained_folder(name: str, revision: str | None = None) -> Path:
    """A folder of this machine, or one that is downloaded from the Hugging Face Hub.

    Args:
        name: a path, or "owner/name" where there is no such path.
        revision: of the repository.

    Raises:
        UserError: there is no such folder, and no such repository.
    """
    if "://" not in name and local_path(name).exists():
        if revision is not None:
            raise UserError(
                f"revision={revision}: {name} is a folder of this machine; only repositories have revisions"
            )
        return local_path(name)
    if not HUB_ID.fullmatch(name):
        raise UserError(f"{name}: there is no such folder, and it is no name of a repository (owner/name)")
    with _hub(f"{name}: there is no such folder, and a download from the Hugging Face Hub") as hub:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD]))


def push(folder: Path, repository: str, private: bool | None) -> str:
    """Upload a folder to a repository of the Hugging Face Hub; returns its address.

    Raises:
        UserError: the hub cannot be reached, or refuses it.
    """
    with _hub(f"push_to_hub={repository}: an upload to the Hugging Face Hub") as hub:
        made = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a NoProp classifier")
        return str(made)


@contextmanager
def _hub(action: str) -> Iterator[Any]:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{action} needs huggingface_hub: pip install noprop-dist[hub]") from error
    try:
        yield huggingface_hub
    except Exception as error:  # those of its HTTP library have no base in common
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{action} fails: {reason[:400]}") from error


def _config(folder: Path) -> PretrainedConfig:
    try:
        with open_file(folder / CONFIG) as opened:
            content = opened.read(LARGEST_CONFIG + 1)
        if len(content) > LARGEST_CONFIG:
            raise ValueError(f"it is larger than {LARGEST_CONFIG:,} bytes")
        config = PretrainedConfig.model_validate(parse_json(content, JsonObject))
        if config.id2label.keys() != set(range(len(config.id2label))):
            raise ValueError("the keys of id2label are not 0..m−1")
    except FileNotFoundError as error:
        raise UserError(f"{folder}: holds no {CONFIG}, so it is nothing that save_pretrained wrote") from error
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        raise UserError(f"{folder}: {CONFIG} cannot be read: {reason}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: {CONFIG} cannot be read: {why(error)}") from error
    return config


def _check_trust(folder: Path, config: PretrainedConfig, network: NetworkFactory | None, trust_code: bool) -> None:
    given = {each.name for each in _networks(config) if isinstance(each, schema.GivenNetwork)}
    named = {each.path for each in _networks(config) if isinstance(each, schema.CustomNetwork)}
    if network is not None and not (given or named):
        raise UserError(f"{folder}: network has no part in it: no block is of a class of somebody's own; leave it out")
    if network is not None or not named | given:
        return
    never_import_from(folder)
    if given or not trust_code:
        classes = ", ".join(sorted(given | named)[:3])
        otherwise = "" if given else ", or let it be imported with trust_code=True"
        raise UserError(
            f"{folder}: its blocks are of a class of somebody's own, {classes}; hand it over as network=…{otherwise}"
        )


def _networks(config: PretrainedConfig) -> list[schema.NetworkSettings]:
    return [config.blocks.network, *config.blocks.networks.values()]


def _weights(file: Path, digest: str) -> dict[str, Tensor]:
    try:
        with open_file(file) as opened:
            content = opened.read()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"it is damaged, or of another {CONFIG} (its checksum does not match)")
        tensors: dict[str, Tensor] = load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read: {why(error)}") from error
    return tensors


def _build(
    config: PretrainedConfig, weights: Mapping[str, Tensor], network: NetworkFactory | None
) -> tuple[list[nn.Module], nn.Module, dict[str, Tensor]]:
    shapes, parts = config.shapes, _by_part(weights)
    buffers = parts.pop("", {})
    _check_buffers(config, buffers)

    def block(t: int) -> nn.Module:
        settings, part = config.blocks.network_of(t), f"blocks.{t - 1}"
        build = partial(_network, settings, shapes, network)
        return _loaded(part, parts.pop(part, {}), build, trusted=settings.kind in {"custom", "given"})

    blocks = [block(t) for t in range(1, config.blocks.count + 1)]
    build = partial(build_classifier, config.classifier, shapes, 0)
    classifier = _loaded("classifier", parts.pop("classifier", {}), build, trusted=False)
    if parts:
        raise ValueError(f"no part of the network is called {min(parts)}")
    return blocks, classifier, buffers


def _network(settings: schema.NetworkSettings, shapes: Shapes, network: NetworkFactory | None) -> nn.Module:
    if network is not None and isinstance(settings, schema.CustomNetwork):
        return given_network(partial(network, **settings.arguments), settings.path, shapes)
    return build_network(settings, shapes, 0, network)


def _by_part(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by their names within "blocks.0", "classifier", …; those of the whole under ""."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        part, inner = PART.findall(name)[0]
        parts.setdefault(part, {})[inner] = tensor
    return parts


def _check_buffers(config: PretrainedConfig, buffers: Mapping[str, Tensor]) -> None:
    T, m, d = config.blocks.count, len(config.id2label), config.embedding_dim
    passes = max([1, *buffers["noise"].shape[:1]]) if "noise" in buffers else 1
    per_channel = (config.input_shape[0], *[1] * (len(config.input_shape) - 1))
    steps, columns = T * config.steps_per_block, 4 if config.takes_level else 3
    shapes = (m, d), (steps, columns), per_channel, per_channel, (passes, steps + 1, 1, d)
    _must_fit("", buffers, dict(zip(BUFFERS, shapes, strict=True)))
    for name, tensor in buffers.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is of dtype {tensor.dtype}")


def _must_fit(prefix: str, found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(shapes.keys() ^ found.keys()):
        raise ValueError(f"{'there is no' if name in shapes else 'no part of the network is called'} {prefix}{name}")
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise ValueError(f"{prefix}{name} has shape {tuple(found[name].shape)}, the network's has {shape}")


def _loaded(part: str, weights: Mapping[str, Tensor], build: Callable[[], nn.Module], trusted: bool) -> nn.Module:
    """A module that has these tensors for its weights.

    It is built without memory and takes the tensors as they are, so that no configuration makes this machine allocate
    more than the file of weights has. A network of a user's own may not take that; its author is trusted.
    """
    with nullcontext() if trusted else _WithoutMemory():
        module = build()
    _must_fit(f"{part}.", weights, {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})
    module.load_state_dict(weights, assign=not trusted)
    return module


class _WithoutMemory(TorchFunctionMode):
    """A `with` in which new parameters and buffers have sizes and no memory; what networks compute with is real.

    `torch.device("meta")` would take that, too, and a RegNet computes its sizes by tensors.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in {torch.empty, torch.zeros, torch.ones}:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def config_of(card: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """The plain values of config.json, without the weights' SHA-256.

    Args:
        card: settings `blocks` and `classifier`, and what is told of the training.
        facts: further values of `PretrainedConfig`.
    """
    return {
        "format": 1,
        "model_type": "noprop",
        "architectures": ["NoPropClassifier"],
        "library_name": "noprop-dist",
        "noprop_dist_version": __version__,
        **facts,
        **card,
    }
