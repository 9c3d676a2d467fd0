"""Runs as jobs of a Ray cluster: submitted, followed and stopped over its jobs server (what `ray job` talks to)."""

import asyncio
import logging
import shlex
import signal
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from noprop_dist.engines.ray.token import PLACES
from noprop_dist.errors import TrainingError, UserError

STOP_WAIT_SECONDS = 60
"""From telling a job to stop until Ray kills it. Ray's default is three seconds, too few for the snapshots."""
NOT_SENT = [".git", ".venv", ".*_cache", "**/__pycache__", "*.egg-info", "build", "dist", "docs", "runs", "tests"]
SECRETS = ["deploy/secrets", "deploy/data", ".env"]
RETRY_SECONDS, LOST_SECONDS = 2.0, 120.0


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its jobs server, http://HOST:8265.

    Raises:
        UserError: nobody answers there, or the token is missing or wrong.
    """

    def __init__(self, address: str) -> None:
        self.address = address if "://" in address else f"http://{address}"
        try:
            self._client = JobSubmissionClient(self.address)
        except (AuthenticationError, OSError, RuntimeError, ValueError) as error:  # those of requests are OSErrors
            raise _refused(self.address, error) from error

    def submit(self, arguments: Sequence[str], working_dir: Path | None, install: bool) -> str:
        """Start `python -m noprop_dist ARGUMENTS` on the cluster.

        Args:
            arguments: of the command line.
            working_dir: is packed and sent; without it the nodes have the project installed.
            install: let every node install the packages of the working directory's pyproject.toml first.

        Returns:
            The job's id.

        Raises:
            UserError: the server refuses it.
        """
        runtime_env: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS)}}
        if working_dir is not None:
            runtime_env |= {"working_dir": str(working_dir), "excludes": [*NOT_SENT, *SECRETS]}
        if install:
            runtime_env["pip"] = packages_of(working_dir or Path())
        try:
            id_: str = self._client.submit_job(
                entrypoint=shlex.join(["python", "-m", "noprop_dist", *arguments]), runtime_env=runtime_env
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise _refused(self.address, error) from error
        return id_

    def follow(self, job: str, show: Callable[[str], None]) -> int:
        """Pass on what a job writes, from its beginning, until it ends; return its exit code.

        A lost connection is tried again for two minutes.

        Raises:
            UserError: there is no such job.
            TrainingError: the server does not answer any more; the job may go on.
        """
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        log, answered = _Log(show), time.monotonic()
        while True:
            try:
                status = self._client.get_job_status(job)
                asyncio.run(log.read(self._client.tail_job_logs(job)))
                answered = time.monotonic()
                if status.is_terminal():
                    break
            except (OSError, RuntimeError) as error:
                if "does not exist" in str(error):
                    raise UserError(f"{job}: there is no such job at {self.address}") from error
                self._give_up_after(answered, job, error)
        return self._exit_code(job, status)

    def stop(self, job: str) -> None:
        """Ask a job to snapshot and end, and wait until it has.

        Raises:
            UserError: there is no such job.
            TrainingError: it did not end in time.
        """
        try:
            self._client.stop_job(job)
        except RuntimeError as error:
            raise UserError(f"{job}: there is no such job at {self.address}") from error
        deadline = time.monotonic() + STOP_WAIT_SECONDS + LOST_SECONDS
        while not self._client.get_job_status(job).is_terminal():
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"{job}: has not ended {STOP_WAIT_SECONDS + LOST_SECONDS:.0f} s after it was told to"
                )
            time.sleep(0.5)

    def all(self) -> list[tuple[str, str, str]]:
        """(id, status, command) of every job, the newest first."""
        found = sorted(self._client.list_jobs(), key=lambda each: each.start_time or 0, reverse=True)
        return [(each.submission_id or each.job_id or "", each.status.value, each.entrypoint) for each in found]

    def _exit_code(self, job: str, status: JobStatus) -> int:
        details = self._client.get_job_info(job)
        if details.driver_exit_code is not None:
            return int(details.driver_exit_code)
        by_status = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 128 + signal.SIGTERM}
        if status in by_status:
            return by_status[status]
        raise TrainingError(f"{job} {status.value.lower()}: {details.message}")

    def _give_up_after(self, answered: float, job: str, error: Exception) -> None:
        if time.monotonic() - answered > LOST_SECONDS:
            raise TrainingError(
                f"{self.address}: no answer for {LOST_SECONDS:.0f} s, {job} may go on: {error}"
            ) from error
        time.sleep(RETRY_SECONDS)


class _Log:
    """Shows each part of a log once, although it may be read from its beginning again."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._shown = 0

    async def read(self, parts: AsyncIterator[str]) -> None:
        """Show what is new, until the server ends the log."""
        at = 0
        async for part in parts:
            new = part[max(0, self._shown - at) :]
            at += len(part)
            if new:
                self._show(new)
                self._shown = at


def packages_of(folder: Path) -> list[str]:
    """The dependencies in a folder's pyproject.toml, without Ray: the cluster runs its own.

    Raises:
        UserError: there is no such file.
    """
    file = folder / "pyproject.toml"
    try:
        dependencies = tomllib.loads(file.read_text())["project"]["dependencies"]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--install: {file} does not tell the packages: {error}") from error
    return [each for each in dependencies if not each.startswith("ray")]


def _refused(address: str, error: Exception) -> UserError:
    text = str(error)
    if "Authentication required" in text:
        return UserError(f"--address {address}: the cluster asks for a token and none was found; put it in {PLACES}")
    if "Authentication failed" in text:
        return UserError(f"--address {address}: the cluster does not take the token of {PLACES}")
    if "No available agent" in text:
        return UserError(
            f"--address {address}: the agent of the cluster's head does not answer. Try again if the cluster has just "
            "started. If another Ray runs on its machine, start the head with --dashboard-agent-listen-port=0"
        )
    return UserError(f"--address {address}: {text.strip().splitlines()[0] if text.strip() else type(error).__name__}")
