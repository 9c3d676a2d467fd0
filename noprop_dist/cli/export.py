"""`export`."""

from noprop_dist import api
from noprop_dist.cli.options import checked_sampler, warn
from noprop_dist.cli.terminal import Terminal, shown, working


def write_export(
    run_dir: str,
    format_: str,
    out: str,
    checkpoint: str,
    *,
    sampler: str,
    passes: int,
    seed: int | None,
    steps_per_block: int | None,
    noise: str,
    trust_code: bool,
) -> None:
    """Export a run, and print where the file is."""
    chosen = checked_sampler(sampler, passes)
    with working(f"exporting as {format_}"):
        exported = api.export(
            run_dir,
            format_,
            out,
            checkpoint,
            sampler=chosen,
            passes=passes,
            seed=seed,
            steps_per_block=steps_per_block,
            noise=noise,
            trust_code=trust_code,
        )
    warn(exported.warnings)
    told = f"{exported.bytes:,} bytes"
    if exported.largest_difference is not None:
        told += f"; probabilities differ from the network's by at most {exported.largest_difference:.1g}"
    Terminal(stderr=True).print(told)
    print(shown(str(exported.path)))
