"""Stages: what is trained by itself. Each has one identity, from which its name, its files and its label follow."""

from dataclasses import dataclass
from typing import Literal

StageKind = Literal["block", "classifier", "embedding", "network"]


@dataclass(frozen=True, order=True, slots=True)
class Stage:
    """A block û_t, the classifier p̂_out, a learned W_embed, or the baseline's network as a whole.

    Stages sort by (kind, index): blocks first, then the classifier, then W_embed.

    Attributes:
        kind: what it is.
        index: t of a block, 1..T; 0 for the others, of which a run has one.
    """

    kind: StageKind
    index: int = 0

    @property
    def is_block(self) -> bool:
        return self.kind == "block"

    @property
    def name(self) -> str:
        """For people: "block 3", "classifier", "embedding" or "network"."""
        return f"block {self.index}" if self.is_block else self.kind

    @property
    def label(self) -> str:
        """Value of the Prometheus label `block`: "3", "classifier", "embedding" or "network"."""
        return str(self.index) if self.is_block else self.kind

    def file(self, blocks: int) -> str:
        """The beginning of its files' names if T = `blocks`: "block-03", "classifier", "embedding" or "network"."""
        return f"block-{self.index:0{max(2, len(str(blocks)))}d}" if self.is_block else self.kind

    def number(self, blocks: int) -> int:
        """Its number in a run of T = `blocks`, which keys its random streams and its files.

        Block t reads z_{t-1} and the classifier reads z_T: it is number T + 1. W_embed is T + 2, a whole network 1.
        """
        return {"block": self.index, "classifier": blocks + 1, "embedding": blocks + 2, "network": 1}[self.kind]


def block(t: int) -> Stage:
    """The stage of block t, 1..T."""
    return Stage("block", t)


CLASSIFIER = Stage("classifier")
EMBEDDING = Stage("embedding")
NETWORK = Stage("network")
