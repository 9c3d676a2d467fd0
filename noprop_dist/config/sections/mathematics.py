"""The equations of the paper: noise schedule, class embeddings, classifier and objective."""

from typing import Literal

from pydantic import Field, model_validator

from noprop_dist.config.sections.base import ChangesBits, OpenUnit, Positive, Settings


class ScheduleSettings(Settings):
    """The noise schedule ᾱ_0 < … < ᾱ_T (docs/explanation/mathematics.md)."""

    kind: ChangesBits[Literal["cosine", "linear", "equal-probability", "list"]] = "cosine"
    alpha_bar_min: ChangesBits[OpenUnit | None] = Field(
        None, description="ᾱ_0 (default 1e-4, lower for very many blocks)"
    )
    alpha_bar_max: ChangesBits[OpenUnit | None] = Field(
        None, description="ᾱ_T (default 0.999, higher for very many blocks)"
    )
    alpha_bar: ChangesBits[tuple[float, ...] | None] = Field(None, description="kind list: the T + 1 values, rising")

    @model_validator(mode="after")
    def _list_has_values(self) -> "ScheduleSettings":
        if (self.kind == "list") != (self.alpha_bar is not None):
            raise ValueError("alpha_bar is given exactly where schedule.kind=list")
        return self


class EmbeddingSettings(Settings):
    """The class embeddings W_embed (m × d)."""

    kind: ChangesBits[Literal["onehot", "learned", "prototype"]] = Field(
        "onehot", description="the identity; learned from a random start; learned from a typical image of each class"
    )
    dim: ChangesBits[Positive | None] = Field(None, description="kind learned: d (default 20)")
    learning_rate: ChangesBits[float] = Field(1e-3, gt=0, description="of W_embed, if it is learned")
    sync_steps: ChangesBits[Positive] = Field(
        32, description="steps that a version of a learned W_embed lasts; 1 is a joint update at every step"
    )

    @property
    def is_learned(self) -> bool:
        """Return True if W_embed moves, so that the blocks share it."""
        return self.kind != "onehot"

    @model_validator(mode="after")
    def _dim_fits(self) -> "EmbeddingSettings":
        if self.dim is not None and self.kind != "learned":
            raise ValueError(f"embedding.dim={self.dim} is only for embedding.kind=learned; {self.kind} has its own")
        return self


class ClassifierSettings(Settings):
    """The classifier on z_T. It needs a learning rate of its own; its steps cost next to nothing."""

    kind: ChangesBits[Literal["linear", "radial"]] = Field(
        "linear", description="softmax over f(z_T), or distances to embeddings"
    )
    learning_rate: ChangesBits[float] = Field(2e-2, gt=0)
    sigma: ChangesBits[float] = Field(0.5, gt=0, description="kind radial: σ of Eq. 15, in units of the embeddings")


class ObjectiveSettings(Settings):
    """Eq. 8."""

    eta: ChangesBits[float] = Field(0.1, gt=0, description="η, the weight of the denoising term")
