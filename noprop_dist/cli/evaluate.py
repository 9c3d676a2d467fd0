"""`evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from noprop_dist import api
from noprop_dist.api.types import BlockEvaluation, Evaluation, ObjectiveTerms
from noprop_dist.cli.options import checked_sampler, warn
from noprop_dist.cli.terminal import FittingTable, Terminal, working

console = Terminal()


def show_evaluation(
    run_dir: str,
    sampler: str,
    passes: int,
    checkpoint: str,
    *,
    per_block: bool,
    steps_per_block: int | None,
    data_root: str | None,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Print the accuracy on the test set."""
    chosen = checked_sampler(sampler, passes)
    with working("classifying the test samples"):
        result = api.evaluate(
            run_dir,
            chosen,
            passes,
            checkpoint=checkpoint,
            per_block=per_block,
            steps_per_block=steps_per_block,
            data_root=data_root,
            trust_code=trust_code,
        )
    warn(result.notes)
    terms = result.terms
    if as_json:
        extra = {"per_block": [asdict(block) for block in result.per_block]} if per_block else {}
        figures = {
            "step": result.step,
            "steps_per_block": result.steps_per_block,
            **asdict(result.accuracy),
            "objective": terms and asdict(terms),
        }
        print(json.dumps({**figures, **extra}))
        return
    is_told = steps_per_block is not None or result.steps_per_block > 1
    console.print(_summary(result.accuracy, result.step, result.steps_per_block if is_told else None))
    if terms is not None:
        console.print(
            f"Eq. 8 on the test set, nats per sample: cross-entropy {terms.cross_entropy:.4g}, KL {terms.kl:.4g}, "
            f"denoising {terms.denoising:.4g}; ELBO {terms.elbo:.4g}"
        )
    if per_block:
        console.print(_block_table(result.per_block, terms, one_step=result.steps_per_block > 1))


def _summary(result: Evaluation, step: int, steps_per_block: int | None) -> str:
    steps = f", {steps_per_block} step(s) per block" if steps_per_block is not None else ""
    return (
        f"after {step:,} steps: accuracy {result.accuracy:.2%} (classifier), "
        f"{result.nearest_embedding_accuracy:.2%} (nearest embedding) "
        f"on {result.samples:,} test samples, {result.sampler} sampler, {result.passes} pass(es){steps}"
    )


def _block_table(blocks: Sequence[BlockEvaluation], terms: ObjectiveTerms | None, *, one_step: bool) -> Table:
    table = FittingTable(title="accuracy of the parts, and their terms of Eq. 8", title_justify="left")
    alone = "block alone, one step" if one_step else "block alone"
    for column in ("block t", "chain: nearest to z_t", "chain: class of û_t", alone, "denoising term (nats)"):
        table.add_column(column, justify="right")
    for block in blocks:
        shares = (f"{share:.2%}" for share in (block.after_block, block.prediction, block.alone))
        term = "" if terms is None else f"{terms.denoising_terms[block.block - 1]:.4g}"
        table.add_row(str(block.block), *shares, term)
    return table
