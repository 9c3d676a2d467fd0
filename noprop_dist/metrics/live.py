"""What is looked up at the moment of a scrape: states, lag, and what is under way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from noprop_dist.metrics.families import BLOCK
from noprop_dist.training.progress import StageState


@dataclass(frozen=True)
class LiveStage:
    """One block, or the classifier, as it stands.

    Attributes:
        block: value of the label.
        state: of the progress table.
        step: that it has done.
        rounds_in_flight: sent and not answered.
        sent_bytes: of all rounds so far.
    """

    block: str
    state: StageState
    step: int
    rounds_in_flight: int
    sent_bytes: int


class LiveCollector(Collector):
    """Asks at every scrape.

    Args:
        run: value of the label `run`.
        look: called from the endpoint's thread.
    """

    def __init__(self, run: str, look: Callable[[], Sequence[LiveStage]]) -> None:
        self._run = run
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        state = GaugeMetricFamily("noprop_block_state", "1 for the state of a block.", labels=(*BLOCK, "state"))
        lag = GaugeMetricFamily("noprop_block_lag_steps", "Steps behind the fastest block.", labels=BLOCK)
        flight = GaugeMetricFamily("noprop_rounds_in_flight", "Rounds sent and not answered yet.", labels=BLOCK)
        sent = CounterMetricFamily("noprop_sent_bytes", "Bytes of the rounds that were sent.", labels=BLOCK)
        stages = self._look()
        fastest = max((stage.step for stage in stages), default=0)
        for stage in stages:
            labels = (self._run, stage.block)
            for name in get_args(StageState):
                state.add_metric((*labels, name), float(stage.state == name))
            lag.add_metric(labels, fastest - stage.step)
            flight.add_metric(labels, stage.rounds_in_flight)
            sent.add_metric(labels, stage.sent_bytes)
        yield from (state, lag, flight, sent)
