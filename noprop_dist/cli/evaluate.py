"""`evaluate` and `predict`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from noprop_dist.cli.trained import checked_sampler, load_run, working
from noprop_dist.data.image_file import read_image
from noprop_dist.data.load import load_data
from noprop_dist.data.samples import Samples
from noprop_dist.errors import UserError
from noprop_dist.inference.evaluation import (
    BlockEvaluation,
    Evaluation,
    ObjectiveTerms,
    evaluate,
    evaluate_blocks,
    evaluate_terms,
)

console = Console(highlight=False, soft_wrap=True)


def show_evaluation(run_dir: str, sampler: str, passes: int, per_block: bool, as_json: bool) -> None:
    """Print the accuracy on the test set."""
    chosen = checked_sampler(sampler, passes)
    run = load_run(run_dir)
    test = load_data(run.setup.config.data).held_out.test
    with working(f"classifying {len(test):,} test samples"):
        result = evaluate(run.network, test, chosen, passes)
        terms = None if run.setup.end_to_end else evaluate_terms(run.network, test, run.setup.config.objective.eta)
        blocks = evaluate_blocks(run.network, test, chosen) if per_block else []
    if as_json:
        extra = {"per_block": [asdict(block) for block in blocks]} if per_block else {}
        print(json.dumps({**result.to_json(), "objective": terms and terms.to_json(), **extra}))
        return
    console.print(_summary(result))
    if terms is not None:
        console.print(
            f"Eq. 8 on the test set, nats per sample: cross-entropy {terms.cross_entropy:.4g}, KL {terms.kl:.4g}, "
            f"denoising {terms.denoising:.4g}; ELBO {terms.elbo:.4g}"
        )
    if per_block:
        console.print(_block_table(blocks, terms))


def show_predictions(run_dir: str, images: Sequence[Path], sampler: str, passes: int, as_json: bool) -> None:
    """Print class and probability of each image file."""
    chosen = checked_sampler(sampler, passes)
    run = load_run(run_dir)
    shape = run.setup.facts.input_shape
    if len(shape) != 3:
        raise UserError(f"{run_dir}: was trained on samples of shape {shape}, not on images")
    pixels = [read_image(file, channels=shape[0], size=(shape[1], shape[2])) for file in images]
    rows = []
    for file, image in zip(images, pixels, strict=True):  # one by one, so that no prediction depends on the others
        samples = Samples(image[None], run.setup.facts, run.network.device)
        with torch.inference_mode():
            probabilities = run.network.decide(samples.normalise(torch.from_numpy(image[None])), chosen, passes)
        probability, label = probabilities.probabilities[0].max(dim=-1)
        rows.append((str(file), run.setup.facts.class_names[int(label)], float(probability)))
    if as_json:
        print(json.dumps([{"image": file, "class": name, "probability": share} for file, name, share in rows]))
        return
    for path, name, share in rows:
        console.print(f"{path}: {name} ({share:.1%})", soft_wrap=True, markup=False)


def _summary(result: Evaluation) -> str:
    return (
        f"accuracy {result.accuracy:.2%} (classifier), {result.nearest_embedding_accuracy:.2%} (nearest embedding) "
        f"on {result.samples:,} test samples, {result.sampler} sampler, {result.passes} pass(es)"
    )


def _block_table(blocks: list[BlockEvaluation], terms: ObjectiveTerms | None) -> Table:
    table = Table(title="accuracy of the parts, and their terms of Eq. 8", title_justify="left")
    for column in ("block t", "chain: nearest to z_t", "chain: class of û_t", "block alone", "denoising term (nats)"):
        table.add_column(column, justify="right")
    for block in blocks:
        shares = (f"{share:.2%}" for share in (block.after_block, block.prediction, block.alone))
        term = "" if terms is None else f"{terms.denoising_terms[block.block - 1]:.4g}"
        table.add_row(str(block.block), *shares, term)
    return table
