"""What the trackers have in common: each takes the figures of rounds and evaluations, and pictures at the end."""

import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

from noprop_dist.records import EmbeddingUpdated, Evaluated, ObjectiveMeasured, Record, RoundDone
from noprop_dist.tracking.callback import Callback


class Tracker(Callback):
    """A callback that keeps the figures of every round and evaluation."""

    def on_round(self, record: RoundDone | EmbeddingUpdated) -> None:
        self._add(record)

    def on_evaluation(self, record: Evaluated | ObjectiveMeasured) -> None:
        self._add(record)

    @abstractmethod
    def _add(self, record: Record) -> None:
        """Keep the figures of a record; one without figures changes nothing."""


def picture_files(pictures: Mapping[str, bytes]) -> Iterator[tuple[str, Path]]:
    """The name of each picture, and a PNG file that is there until the next one is asked for."""
    with tempfile.TemporaryDirectory(prefix="noprop-dist-tracking-") as folder:
        for name, png in pictures.items():
            file = Path(folder) / f"{name}.png"
            file.write_bytes(png)
            yield name, file
