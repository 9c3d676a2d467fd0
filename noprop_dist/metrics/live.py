"""What is read at each scrape: the stages' states, their lag, and the rounds under way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from noprop_dist.metrics.families import BLOCK
from noprop_dist.stages import Stage
from noprop_dist.training.progress import StageState


@dataclass(frozen=True)
class LiveStage:
    """The present state of a stage.

    Attributes:
        stage: a block, the classifier or W_embed.
        state: as in the progress table.
        step: steps done.
        rounds_in_flight: rounds that were sent and are not answered yet.
        sent_bytes: of all rounds so far.
    """

    stage: Stage
    state: StageState
    step: int
    rounds_in_flight: int
    sent_bytes: int


class LiveCollector(Collector):
    """Asks for the present state of all stages at every scrape.

    Args:
        run: value of the label `run`.
        stages: returns them; called from the endpoint's thread.
    """

    def __init__(self, run: str, stages: Callable[[], Sequence[LiveStage]]) -> None:
        self._run = run
        self._stages = stages

    def collect(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("noprop_block_state", "1 for the state of a block.", labels=(*BLOCK, "state"))
        lag = GaugeMetricFamily("noprop_block_lag_steps", "Steps behind the fastest block.", labels=BLOCK)
        flight = GaugeMetricFamily("noprop_rounds_in_flight", "Rounds sent and not answered yet.", labels=BLOCK)
        sent = CounterMetricFamily("noprop_sent_bytes", "Bytes of the rounds that were sent.", labels=BLOCK)
        stages = self._stages()
        fastest = max((each.step for each in stages), default=0)
        for each in stages:
            labels = (self._run, each.stage.label)
            for name in get_args(StageState):
                state.add_metric((*labels, name), float(each.state == name))
            lag.add_metric(labels, fastest - each.step)
            flight.add_metric(labels, each.rounds_in_flight)
            sent.add_metric(labels, each.sent_bytes)
        yield from (state, lag, flight, sent)
