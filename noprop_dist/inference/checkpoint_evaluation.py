"""Measures a checkpoint on held-out data: a sample while training goes on, the whole test set at the end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from noprop_dist.data.dataset import HeldOut, Split
from noprop_dist.inference.evaluation import Evaluation, ObjectiveTerms, Passes, measure
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.records import Evaluated, ObjectiveMeasured, Record
from noprop_dist.run_plan import RunPlan

MEAN, STOCHASTIC = Passes("mean"), Passes("stochastic")


@dataclass(frozen=True)
class CheckpointEvaluation:
    """Held-out figures of one checkpoint.

    Attributes:
        step: of the checkpoint.
        final: whether it is the last one of the run (then on the whole test set).
        results: (split, evaluation) pairs.
        terms: of Eq. 8 on the validation split; None for the baseline, which has no such objective.
    """

    step: int
    final: bool
    results: tuple[tuple[str, Evaluation], ...]
    terms: ObjectiveTerms | None

    def records(self) -> list[Evaluated | ObjectiveMeasured]:
        """Lines for metrics.jsonl."""
        lines: list[Evaluated | ObjectiveMeasured] = [
            Evaluated(step=self.step, final=self.final, split=split, **asdict(result)) for split, result in self.results
        ]
        if self.terms is not None:
            lines.append(ObjectiveMeasured(step=self.step, final=self.final, split="validation", **asdict(self.terms)))
        return lines

    @staticmethod
    def last_of(records: Sequence[Record]) -> "CheckpointEvaluation | None":
        """The newest one of the lines of metrics.jsonl; None if nothing was evaluated."""
        measured = [record for record in records if isinstance(record, Evaluated)]
        if not measured:
            return None
        last = measured[-1]
        of_last = (last.step, last.final)  # a run that was cut short here was measured here before
        results = tuple((r.split, _evaluation(r)) for r in measured if (r.step, r.final) == of_last)
        objectives = (r for r in records if isinstance(r, ObjectiveMeasured) and (r.step, r.final) == of_last)
        terms = [ObjectiveTerms(*(getattr(r, each.name) for each in fields(ObjectiveTerms))) for r in objectives]
        return CheckpointEvaluation(last.step, last.final, results, terms[-1] if terms else None)

    def summary(self) -> str:
        """One line for people."""
        figures = (f"{split} ({result.sampler}) {result.accuracy:.2%}" for split, result in self.results)
        return f"step {self.step}: accuracy {', '.join(figures)}"


def evaluate_checkpoint(network: NoPropNetwork, plan: RunPlan, held_out: HeldOut, step: int) -> CheckpointEvaluation:
    """Measure the network of a checkpoint on held-out data.

    Before the end of the run it takes a fixed sample of validation and test set, and the `mean` sampler. At the end it
    takes the whole test set and both samplers.
    """
    final, sample = step == plan.total_steps, plan.config.evaluation.samples
    eta = None if plan.end_to_end else plan.config.objective.eta
    validation = measure(network, _evenly(held_out.validation, sample), [MEAN], eta=eta)
    test, passes = (held_out.test, [MEAN, STOCHASTIC]) if final else (_evenly(held_out.test, sample), [MEAN])
    accuracies = measure(network, test, passes).accuracies
    results = [("validation", each) for each in validation.accuracies] + [("test", each) for each in accuracies]
    return CheckpointEvaluation(step, final, tuple(results), validation.terms)


def _evaluation(record: Evaluated) -> Evaluation:
    return Evaluation(record.accuracy, record.nearest_embedding_accuracy, record.sampler, record.passes, record.samples)


def _evenly(split: Split, samples: int) -> Split:
    """So many samples, spread evenly (MNIST's test set has its easier half first)."""
    return split.subset(np.linspace(0, len(split) - 1, min(samples, len(split))).astype(np.int64))
