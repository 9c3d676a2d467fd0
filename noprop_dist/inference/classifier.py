"""A trained network as one torch module: images in, log-probabilities out, normalisation and noise in it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite, log
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noprop_dist.config.arguments import Seed, checked
from noprop_dist.config.sections.base import Positive
from noprop_dist.data.given import check_dense, plain_array
from noprop_dist.data.samples import fitted
from noprop_dist.diffusion.objective import predict_embedding
from noprop_dist.errors import UserError
from noprop_dist.files import local_path
from noprop_dist.inference.network import NoPropNetwork, Sampler
from noprop_dist.inference.pretrained import config_of, pretrained_folder, push, read_pretrained, write_pretrained
from noprop_dist.models.custom import NetworkFactory
from noprop_dist.models.features import image_features, logits
from noprop_dist.torch_device import choose_device
from noprop_dist.torch_state import as_in_a_new_process

Images = Tensor | NDArray[Any]
LOWEST, HIGHEST = -0.5, 1.5
"""Of floats in 0..1 for uint8. Resizing overshoots a little; what is in 0..255, or normalised, goes further."""
CHOSEN_BY_LOADING = ("passes", "seed", "device")


class NoPropClassifier(nn.Module):
    """Blocks û_1 … û_T and p̂_out, ready to classify.

    z_0 and ε_t are one draw for all samples of a pass. The answer for an image therefore does not depend on the batch
    that it lies in, and `forward` draws nothing: it can be compiled, exported and captured.

    It is for inference: `train()` leaves it and its networks in evaluation mode, in a larger module, too. Gradients
    reach images and weights.

    Images have the shape of the run's samples, after the batch. `predict`, `predict_proba` and `chain` take images
    (B, H, W) of one channel, and channels last, too, as `train` does.

    A network that was trained on uint8 takes uint8, or floats in 0..1 as torchvision's `ToTensor` makes them; one that
    was trained on floats takes floats of that scale. Other floats are refused where their values are at hand: not in a
    compiled `forward`, and not on a GPU, for whose values it would have to wait.

    Args:
        blocks: in evaluation mode.
        classifier: (z_T, W_embed) → scores.
        buffers: `embedding` W_embed (m, d); `coefficients` (kT, 3 or 4), see `NoPropNetwork`; `mean` and `std` that
            broadcast to a sample; `noise` z_0, ε of each step, (passes, kT + 1, 1, d).
        sampler: `stochastic` or `mean` (ε = 0).
        input_shape: of a sample.
        input_dtype: that it was trained on, "uint8" or "float32".
        class_names: m names.
        card: plain values that `save_pretrained` keeps: the settings `blocks` and `classifier`, and what is told of
            the training.

    Attributes:
        sampler: may be changed.
        class_names: m names.
        input_shape: of a sample.
        input_dtype: that it was trained on.
        card: see above.
    """

    embedding: Tensor
    coefficients: Tensor
    mean: Tensor
    std: Tensor
    noise: Tensor

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        classifier: nn.Module,
        buffers: Mapping[str, Tensor],
        *,
        sampler: Sampler,
        input_shape: tuple[int, ...],
        input_dtype: str,
        class_names: tuple[str, ...],
        card: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.classifier = classifier
        for name in ("embedding", "coefficients", "mean", "std", "noise"):
            self.register_buffer(name, buffers[name])
        self.sampler = sampler
        self.input_shape, self.input_dtype = input_shape, input_dtype
        self.class_names, self.card = class_names, dict(card)

    @classmethod
    @checked
    @as_in_a_new_process()
    def of(
        cls,
        network: NoPropNetwork,
        card: Mapping[str, Any],
        sampler: Sampler = "mean",
        passes: Positive = 1,
        seed: Seed | None = None,
    ) -> "NoPropClassifier":
        """The module of an assembled network, with which it shares its weights.

        Args:
            network: of a NoProp run or of the baseline.
            card: see the class.
            sampler: `stochastic` (Eq. 3) or `mean` (no noise on the way).
            passes: of the reverse process, whose probabilities are averaged.
            seed: of z_0 and ε; by default the run's.

        Raises:
            UserError: sampler, passes or seed are not allowed.
        """
        seed = network.seed if seed is None else seed
        facts, drawing = network.facts, replace(network, seed=seed)
        per_channel = (-1, *[1] * (len(facts.input_shape) - 1))
        coefficients = network.coefficients
        steps = range(len(coefficients) + 1)
        draws = [torch.stack([drawing.noise(1, t, pass_, batch=0) for t in steps]) for pass_ in range(passes)]
        buffers = {
            "embedding": network.embedding.detach(),
            "coefficients": coefficients,
            "mean": torch.tensor(facts.mean, device=network.device).reshape(per_channel),
            "std": torch.tensor(facts.std, device=network.device).reshape(per_channel),
            "noise": torch.stack(draws),
        }
        return cls(
            network.blocks,
            network.classifier,
            buffers,
            sampler=sampler,
            input_shape=facts.input_shape,
            input_dtype=facts.dtype,
            class_names=facts.class_names,
            card={**card, "seed": seed},
        ).eval()

    @property
    def sampler(self) -> Sampler:
        """`stochastic` (Eq. 3) or `mean` (no noise on the way)."""
        return self._sampler

    @sampler.setter
    @checked
    def sampler(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __setattr__(self, name: str, value: Any) -> None:
        """As the base class has it, but for what would have no effect.

        Raises:
            UserError: as described.
        """
        if name in CHOSEN_BY_LOADING:
            otherwise = "to(…) moves it" if name == "device" else f"load(…, {name}=…) makes one with another"
            raise UserError(f"{name}={value}: cannot be set on a classifier; {otherwise}")
        super().__setattr__(name, value)

    @property
    def passes(self) -> int:
        """Passes of the reverse process that are averaged."""
        return len(self.noise)

    @property
    def steps_per_block(self) -> int:
        """Steps that each block takes through its range of noise levels; 1 where it has one level."""
        return len(self.coefficients) // len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.embedding.device

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in evaluation mode, whatever is asked for: answers do not depend on the batch."""
        return super().train(False)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Log-probabilities of the m classes, averaged over passes as probabilities, (B, m) float32.

        Args:
            images: (B, …) on the module's device.
            noise: z_0, ε_1 … ε_T in place of the module's own, (T + 1, B, d) or (passes, T + 1, B, d). A `mean` sampler
                takes z_0 alone, too: (1, B, d) or (passes, 1, B, d).

        Raises:
            UserError: shape or dtype of images or noise, or values of images, do not fit.
        """
        x = self.normalise(images)
        batch = images.shape[0]
        draws = self.noise.expand(-1, -1, batch, -1) if noise is None else self._checked(noise, batch)
        z_T = self._chain(x, draws)[-1]
        scores: Tensor = self.classifier(z_T, self.embedding).float()
        of_passes = scores.log_softmax(dim=-1).reshape(draws.shape[0], batch, len(self.embedding))
        return of_passes.logsumexp(dim=0) - log(draws.shape[0])

    def predict_proba(self, images: Images) -> Tensor:
        """Probabilities of the m classes, (B, m) float32; images may lie on another device or be an array."""
        with as_in_a_new_process(), torch.no_grad():
            probabilities: Tensor = self(self._here(images)).exp()
        return probabilities

    def predict(self, images: Images) -> Tensor:
        """The most probable class of each image, (B,) int64; `class_names` has their names."""
        with as_in_a_new_process(), torch.no_grad():
            classes: Tensor = self(self._here(images)).argmax(dim=-1)
        return classes

    def chain(self, images: Images) -> Tensor:
        """z_0 … z_T of the first pass, (T + 1, B, d); where blocks take k steps, all of these, (kT + 1, B, d)."""
        with as_in_a_new_process(), torch.no_grad():
            here = self._here(images)
            return torch.stack(self._chain(self.normalise(here), self.noise[:1].expand(-1, -1, len(here), -1)))

    def config(self) -> dict[str, Any]:
        """What the module is, as plain values: config.json of `save_pretrained`, and metadata of exported files."""
        return config_of(
            self.card,
            input_shape=list(self.input_shape),
            input_dtype=self.input_dtype,
            embedding_dim=self.embedding.shape[1],
            id2label={str(label): name for label, name in enumerate(self.class_names)},
            sampler=self.sampler,
            passes=self.passes,
            steps_per_block=self.steps_per_block,
        )

    @checked
    def save_pretrained(
        self, folder: str | Path, *, push_to_hub: str | None = None, private: bool | None = None
    ) -> Path:
        """Write the classifier into a folder in Hugging Face's layout; see `inference.pretrained`.

        Args:
            folder: new, or empty.
            push_to_hub: "owner/name" of a repository of the Hugging Face Hub, to which the folder is uploaded as well.
                Needs the extra `hub`; credentials are huggingface_hub's.
            private: whether a repository that is made for it is private.

        Returns:
            The folder.

        Raises:
            UserError: the folder holds something, or the hub refuses the upload.
            OSError: the folder cannot be written.
        """
        if not {"blocks", "classifier"} <= self.card.keys():
            raise UserError(f"{folder}: a classifier whose card has no settings of its networks cannot be saved")
        target = local_path(folder)
        write_pretrained(target, self.config(), self.state_dict())
        if push_to_hub is not None:
            push(target, push_to_hub, private)
        return target

    @classmethod
    @checked
    @as_in_a_new_process()
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        network: NetworkFactory | None = None,
        trust_code: bool = False,
        revision: str | None = None,
        device: str | torch.device = "cpu",
    ) -> "NoPropClassifier":
        """Read what `save_pretrained` wrote. No code that the folder names is run, unless it is trusted.

        Args:
            folder: a path, or "owner/name" of a repository of the Hugging Face Hub where there is no such path.
            network: the class, or a function that builds it, of blocks that are networks of a user's own.
            trust_code: import that class from where the folder says; never from the folder itself.
            revision: of the repository.
            device: that it computes on, as of `load`.

        Raises:
            UserError: a file is missing or damaged, they do not belong together, or a network of a user's own is
                neither handed over nor trusted; or `network` or `revision` have no part in it.
        """
        chosen = choose_device(device)
        source = pretrained_folder(str(folder), revision)
        config, blocks, classifier, buffers = read_pretrained(source, network, trust_code)
        module = cls(
            blocks,
            classifier,
            buffers,
            sampler=config.sampler,
            input_shape=config.input_shape,
            input_dtype=config.input_dtype,
            class_names=config.class_names,
            card=config.card,
        )
        module.to(chosen, buffers["embedding"].dtype)
        if module.device.type == "cpu":
            _put_channels_last(module)
        return module.eval()

    def normalise(self, images: Tensor) -> Tensor:
        """(B, …) as `forward` takes them → what the blocks take.

        Raises:
            UserError: shape, dtype or values do not fit.
        """
        _check_tensor(images, "images", "; `predict` takes arrays, too")
        if images.shape[1:] != self.input_shape:
            takes = ", ".join(map(str, ("B", *self.input_shape)))
            fits = fitted(images, self.input_shape).shape[1:] == self.input_shape
            todo = "images[:, None]" if images.dim() == 3 else "images.permute(0, 3, 1, 2)"
            raise UserError(
                f"images of shape {tuple(images.shape)} do not fit: this network takes ({takes})"
                + f"; hand over {todo}, or call `predict`" * fits
            )
        if not (images.is_floating_point() or str(images.dtype) == f"torch.{self.input_dtype}"):
            also = " (0..255) or floats in 0..1" if self.input_dtype == "uint8" else ""
            raise UserError(f"images of dtype {images.dtype} do not fit: this network takes {self.input_dtype}{also}")
        if not torch.compiler.is_compiling():
            self._check_values(images)
        x = images.to(torch.float32)
        if not images.is_floating_point():
            x = x / 255
        return ((x - self.mean) / self.std).to(self.embedding.dtype)

    def _here(self, images: Images) -> Tensor:
        """Images as `forward` takes them, on the device of the module.

        Arrays are copied, for torch takes not all that NumPy has.
        """
        if not isinstance(images, Tensor):
            array = plain_array(images, "images")
            kind = np.float64 if array.dtype.kind == "f" and array.itemsize > 8 else array.dtype.newbyteorder("=")
            images = torch.from_numpy(np.array(array, dtype=kind, order="C"))
        self._check_values(images)
        return fitted(images, self.input_shape).to(self.device)

    def _check_values(self, images: Tensor) -> None:
        """Refuse floats that are not finite, or of another scale than that of pixels; and tensors that hold no values.

        Raises:
            UserError: as described.
        """
        if self.device.type != "meta":
            check_dense(images, "images")
        if images.device.type != "cpu" or not images.is_floating_point() or not images.numel():
            return
        low, high = (float(end) for end in images.detach().aminmax())
        if not isfinite(high - low):
            raise UserError("images hold values that are not finite")
        if self.input_dtype == "uint8" and not LOWEST <= low <= high <= HIGHEST:
            raise UserError(
                f"images from {low:g} to {high:g} do not fit: this network takes uint8 (0..255), or floats in 0..1, "
                "which are pixels / 255 and not normalised"
            )

    def _checked(self, noise: Tensor, batch: int) -> Tensor:
        """Noise of a caller, (passes, kT + 1, B, d)."""
        _check_tensor(noise, "noise")
        passes, levels, d = self.noise.shape[0], self.noise.shape[1], self.noise.shape[3]
        allowed = (levels,) if self.sampler == "stochastic" else (levels, 1)
        given = noise if noise.dim() == 4 else noise[None]
        if given.dim() != 4 or given.shape[1] not in allowed or given.shape[2:] != (batch, d):
            takes = " or ".join(f"([{passes},] {each}, {batch}, {d})" for each in allowed)
            raise UserError(f"noise of shape {tuple(noise.shape)} does not fit: this network takes {takes}")
        return given

    def _chain(self, x: Tensor, noise: Tensor) -> list[Tensor]:
        """z_0 … z_T of all passes side by side, (passes · B, d) each.

        Args:
            x: normalised, (B, …).
            noise: (passes, kT + 1, B, d).
        """
        passes, epsilon = noise.shape[0], noise.transpose(0, 1).flatten(1, 2)
        chain, steps = [epsilon[0]], self.steps_per_block
        for t, block in enumerate(self.blocks):
            features = image_features(block, x)
            if passes > 1:
                features = features.repeat(passes, *[1] * (features.dim() - 1))
            for step in range(t * steps, (t + 1) * steps):
                a, b, s, *told = self.coefficients[step]
                level = told[0].expand(chain[-1].shape[0]) if told else None
                z = a * predict_embedding(logits(block, features, chain[-1], level), self.embedding) + b * chain[-1]
                chain.append(z + s * epsilon[step + 1] if self.sampler == "stochastic" else z)
        return chain


def _check_tensor(value: object, name: str, otherwise: str = "") -> None:
    if not isinstance(value, Tensor):
        raise UserError(f"{name}: is {type(value).__name__}, a tensor is needed{otherwise}")


def _put_channels_last(module: nn.Module) -> None:
    """Lay out the weights of convolutions of images as a CPU takes them fastest, and as runs have them, to the stride.

    `contiguous` would leave weights of one channel as they are, and a convolution would sum in another order.
    """
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
