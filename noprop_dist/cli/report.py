"""`report`: plots and an HTML page of a run."""

import io

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from noprop_dist.cli.trained import TrainedRun, load_run, working
from noprop_dist.config.layers import to_yaml
from noprop_dist.data.dataset import HeldOut, Split
from noprop_dist.data.load import load_data
from noprop_dist.data.samples import Samples
from noprop_dist.errors import UserError
from noprop_dist.inference.evaluation import evaluate_blocks
from noprop_dist.records import EmbeddingUpdated, Evaluated, ObjectiveMeasured, Record, RoundDone
from noprop_dist.report import plots
from noprop_dist.report.page import html_page
from noprop_dist.report.summary import latest_metrics, of_kind
from noprop_dist.stages import EMBEDDING
from noprop_dist.storage.checkpoints import Manifest
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.setup import RunSetup

PARTS_SAMPLES = 1000
"""Test samples for the accuracy of the parts: a report should take seconds."""

Pictures = list[tuple[str, str, str, Figure]]
"""(file name, heading, explanation, figure) of each."""

console = Console(highlight=False, soft_wrap=True, markup=False)


def write_report(run_dir: str) -> None:
    """Write report.html and plots/*.png into the run directory, and say where."""
    directory = RunDirectory(run_dir)
    config, manifest = directory.config(), directory.checkpoints.manifest()
    setup, metrics = RunSetup(config, directory.facts()), directory.metrics()
    pictures = _training_pictures(setup, metrics)
    if config.blocks.only is None:
        run = load_run(run_dir)
        try:
            held_out = load_data(config.data).held_out
            with working("measuring every block"):
                pictures += _network_pictures(run, held_out)
        except UserError as error:
            console.print(f"left out what needs the data set: {error}")
    rendered = [(file, heading, text, _png(figure)) for file, heading, text, figure in pictures]
    for file, _, _, png in rendered:
        directory.write_file(f"plots/{file}.png", png)
    page = html_page(
        title=f"{'Back-propagation' if setup.end_to_end else 'NoProp-DT'} on {setup.facts.name}",
        subtitle=f"{config.blocks.count} blocks {_between_blocks(setup)}; {run_dir}",
        headline=_headline(metrics),
        pictures=[(heading, text, png) for _, heading, text, png in rendered],
        facts=_facts(setup, metrics, manifest),
        fingerprints={entry.name: entry.sha256 for entry in manifest.stages},
        config=to_yaml(config),
    )
    console.print(directory.write_file("report.html", page.encode()))


def _training_pictures(setup: RunSetup, metrics: list[Record]) -> Pictures:
    rounds, evaluations = of_kind(metrics, RoundDone), of_kind(metrics, Evaluated)
    objectives, updates = of_kind(metrics, ObjectiveMeasured), of_kind(metrics, EmbeddingUpdated)
    text = "One loss for all blocks." if setup.end_to_end else "Every block minimises its own error."
    pictures = [("loss", "Loss over steps", text, plots.loss_over_steps(rounds))]
    if evaluations:
        text = "The whole chain, assembled from the blocks' snapshots at the same step."
        pictures.append(("accuracy", "Accuracy over steps", text, plots.accuracy_over_steps(evaluations)))
    if objectives:
        text = "What each block still gets wrong at the noise level that it is trained for and used at."
        figure = plots.denoising_of_blocks(setup.schedule, objectives[-1])
        pictures.append(("denoising", "Denoising error against noise level", text, figure))
        text = "Cross-entropy of the classifier, KL of z_0 to noise, and the denoising terms of all blocks together."
        pictures.append(("terms", "The objective", text, plots.terms_over_steps(objectives)))
    if updates:
        text = "Embeddings that shrink or come together make denoising easy and classification hard."
        pictures.append(("embedding", "The learned class embeddings", text, plots.embedding_over_steps(updates)))
    return pictures


def _between_blocks(setup: RunSetup) -> str:
    if setup.end_to_end:
        return "trained end to end"
    return "that share W_embed alone" if EMBEDDING in setup.stages else "without a gradient between them"


def _network_pictures(run: TrainedRun, held_out: HeldOut) -> Pictures:
    test = Split(held_out.test.inputs[:PARTS_SAMPLES], held_out.test.labels[:PARTS_SAMPLES])
    parts = evaluate_blocks(run.network, test, "mean")
    text = "Only the chain and its parts together show whether the chain does anything (mean sampler)."
    pictures = [("parts", "Accuracy through the blocks", text, plots.accuracy_of_parts(parts))]
    if len(run.setup.facts.input_shape) == 3 and test.inputs.dtype == np.uint8:
        samples = Samples(test.inputs[:1], run.setup.facts, run.network.device)
        figure = plots.path_of_z(
            run.network, test.inputs[0], samples.batch(np.zeros(1, dtype=np.int64)), int(test.labels[0])
        )
        text = "Each row is one z_t; with one-hot embeddings its dimensions are the classes."
        pictures.append(("path", "One sample's z on its way from noise to label", text, figure))
    return pictures


def _headline(metrics: list[Record]) -> dict[str, str]:
    last = latest_metrics(metrics).evaluations
    return {f"{each.split} accuracy, {each.sampler} sampler": f"{each.accuracy:.2%}" for each in last}


def _facts(setup: RunSetup, metrics: list[Record], manifest: Manifest) -> dict[str, str]:
    rounds = of_kind(metrics, RoundDone)
    seconds = max(each.time for each in rounds) - min(each.time for each in rounds)
    blocks = [each for each in rounds if each.stage.kind in ("block", "network")]
    steps, busy = sum(each.steps for each in blocks), sum(each.seconds for each in blocks)
    facts = {
        "data": f"{setup.facts.name}: " + ", ".join(f"{n:,} {part}" for part, n in setup.facts.samples.items()),
        "steps": f"{manifest.step:,} of batch {setup.config.training.batch_size} for every block",
        "block-steps": f"{steps:,} in {seconds:.1f} s of training",
        "time of a block-step": f"{1000 * busy / max(1, steps):.2f} ms, mean",
        "software": ", ".join(f"{name} {version}" for name, version in manifest.software.items()),
    }
    objective = latest_metrics(metrics).objective
    if objective is not None:
        terms = ("cross_entropy", "kl", "denoising", "objective", "elbo")
        facts["Eq. 8 (validation, nats)"] = ", ".join(f"{term} {getattr(objective, term):.4g}" for term in terms)
    return facts


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
