"""`job`: runs on a cluster that this machine need not be part of."""

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noprop_dist.cli.terminal import Terminal
from noprop_dist.errors import UserError
from noprop_dist.files import local_path
from noprop_dist.printable import printable

if TYPE_CHECKING:
    from noprop_dist.engines.ray.jobs import Jobs

job_app = typer.Typer(help="Runs as jobs of a Ray cluster: submit, follow, stop, list.", no_args_is_help=True)
messages = Terminal(stderr=True)

Address = Annotated[
    str | None,
    typer.Option(help="The cluster's jobs server, http://HOST:8265. Without it $RAY_API_SERVER_ADDRESS."),
]
JobId = Annotated[str, typer.Argument(help="What `submit` printed.", metavar="JOB")]


@job_app.command(context_settings={"ignore_unknown_options": True})
def submit(
    arguments: Annotated[
        list[str], typer.Argument(help="After --: a command of noprop-dist, such as train --preset mnist.")
    ],
    address: Address = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="Packed and sent; without it the nodes have the project installed.")
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="The nodes first install what its pyproject.toml and constraints.txt say.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's id and return.")] = False,
) -> None:
    """Start a command on the cluster, show what it writes, and end with its exit code."""
    folder = None if working_dir is None else local_path(working_dir)
    if folder is not None and not folder.is_dir():
        raise UserError(f"--working-dir {working_dir}: is no folder")
    if arguments[0] == "train" and not _is_shared(_option(arguments, "--run-dir")):
        messages.print(
            "the run will lie in the job's own folder on one node, and go with it: "
            "name a --run-dir that all nodes reach, an absolute path or a URI"
        )
    jobs = _jobs(address)
    job = jobs.submit(arguments, folder, install, messages.print)
    if detach:
        messages.print(f"follow it: noprop-dist job follow --address {jobs.address} {job}")
        print(job)
        return
    messages.print(f"{job} was submitted to {jobs.address}")
    _follow(jobs, job)


@job_app.command()
def follow(job: JobId, address: Address = None) -> None:
    """Show what a job writes, from its beginning, and end with its exit code; Ctrl-C leaves the job as it is."""
    _follow(_jobs(address), job)


@job_app.command()
def stop(job: JobId, address: Address = None) -> None:
    """Let a job snapshot and end; `resume` goes on with its run."""
    _jobs(address).stop(job)
    messages.print(f"{job} has ended")


@job_app.command(name="list")
def list_jobs(address: Address = None) -> None:
    """All jobs that the cluster knows, the newest first: one line each, on a terminal as much as fits of it."""
    terminal = Terminal()
    for job, status, command in _jobs(address).all():
        line = f"{job:<26}  {status:<9}  {command.removeprefix('python -m noprop_dist ')}"
        terminal.print(line if len(line) <= terminal.width else f"{line[: terminal.width - 1]}…")


def _option(arguments: list[str], name: str) -> str:
    """The last value of an option; "" if it is not given."""
    joined = [each.removeprefix(f"{name}=") for each in arguments if each.startswith(f"{name}=")]
    after = [value for option, value in pairwise(arguments) if option == name]
    return (joined or after or [""])[-1]


def _is_shared(run_dir: str) -> bool:
    return "://" in run_dir or run_dir.startswith(("/", "~"))


def _follow(jobs: "Jobs", job: str) -> None:
    try:
        code = jobs.follow(job, _show, messages.print)
    except KeyboardInterrupt:
        messages.print(f"\n{job} goes on; to stop it: noprop-dist job stop --address {jobs.address} {job}")
        raise SystemExit(128 + signal.SIGINT) from None
    raise SystemExit(code if code >= 0 else 128 - code)


def _jobs(address: str | None) -> "Jobs":
    from noprop_dist.api.jobs import jobs_at

    found = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if found is None:
        raise UserError("--address: say which cluster, http://HOST:8265, or set RAY_API_SERVER_ADDRESS")
    return jobs_at(found)


def _show(text: str) -> None:
    sys.stdout.write(printable(text, keep="\n\t\r"))
    sys.stdout.flush()
