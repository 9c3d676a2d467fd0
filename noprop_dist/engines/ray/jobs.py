"""Runs as jobs of a Ray cluster: submitted, followed and stopped over its jobs server (what `ray job` talks to)."""

import asyncio
import logging
import re
import shlex
import signal
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from importlib.metadata import requires
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from packaging.requirements import Requirement
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from noprop_dist.engines.ray.package import package_of
from noprop_dist.engines.ray.token import PLACES
from noprop_dist.errors import TrainingError, UserError, why

STOP_WAIT_SECONDS = 60
"""From telling a job to stop until Ray kills it. Ray's default is three seconds, too few for the snapshots."""
RETRY_SECONDS, LOST_SECONDS = 2.0, 120.0
ANSWER_SECONDS, UPLOAD_SECONDS = 20.0, 600.0
SILENT_SECONDS = 15.0
"""Without a line of a log until the server is asked whether it is still there: a network may swallow everything."""
LOST = (OSError, RuntimeError, aiohttp.ClientError)
"""What the client raises where the server does not answer, or says no."""
Answer = TypeVar("Answer")


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its jobs server, http://HOST:8265.

    Raises:
        UserError: nobody answers there, or the token is missing or wrong.
    """

    def __init__(self, address: str) -> None:
        self.address = address if "://" in address else f"http://{address}"
        self._client = self._ask(lambda: JobSubmissionClient(self.address))

    def submit(
        self,
        arguments: Sequence[str],
        working_dir: Path | None,
        install: bool,
        say: Callable[[str], None] = lambda _: None,
    ) -> str:
        """Start `python -m noprop_dist ARGUMENTS` on the cluster.

        Args:
            arguments: of the command line.
            working_dir: is packed and sent; without it the nodes have the project installed.
            install: let every node install the packages of the working directory's pyproject.toml first, as pinned.
            say: is told what is large of what is sent, and that a cluster which has just started is waited for.

        Returns:
            The job's id.

        Raises:
            UserError: the server refuses it.
        """
        runtime_env: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS)}}
        if working_dir is not None:
            package = package_of(working_dir.absolute())
            if package.told is not None:
                say(package.told)
            runtime_env |= {"working_dir": str(package.folder), "excludes": list(package.excludes)}
        if install:
            runtime_env["pip"] = packages_of(working_dir or Path())
        entrypoint = shlex.join(["python", "-m", "noprop_dist", *arguments])
        return self._once_started(lambda: self._client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env), say)

    def _once_started(self, submit: Callable[[], str], say: Callable[[str], None]) -> str:
        """Submit; a head that has just started has no agent yet, and says so: nothing was begun then."""
        deadline, told = time.monotonic() + LOST_SECONDS, False
        while True:
            try:
                return self._ask(submit, UPLOAD_SECONDS)
            except _NoAgentError:
                if time.monotonic() > deadline:
                    raise
            if not told:
                told = True
                say(f"{self.address}: the head's agent does not answer yet; trying again for {LOST_SECONDS:.0f} s")
            time.sleep(RETRY_SECONDS)

    def follow(self, job: str, show: Callable[[str], None], say: Callable[[str], None]) -> int:
        """Pass on what a job writes, from its beginning, until it ends; return its exit code.

        Args:
            job: its id.
            show: is given the log, in parts.
            say: is told that the connection is lost. It is tried again for two minutes from then on.

        Raises:
            UserError: there is no such job.
            TrainingError: the server does not answer any more; the job may go on.
            OSError: `show` raised it.
        """
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        log, lost_at, is_known = _Log(show), None, False
        while True:
            began = time.monotonic()
            try:
                status = self._status(job)
                is_known = True
                asyncio.run(log.read(self._client.tail_job_logs(job), lambda: self._status(job)))
                if status.is_terminal():
                    return self._exit_code(job, status)
                lost_at = None
            except _OutputError as error:
                raise error.cause from None
            except TrainingError:
                raise
            except (*LOST, UserError) as error:
                if isinstance(error, UserError) and not is_known:
                    raise  # else the head may be starting anew, and not know yet what it knew
                if lost_at is None or log.heard_at > began:
                    lost_at = time.monotonic()
                    say(f"{self.address}: the connection is lost ({error}); trying again for {LOST_SECONDS:.0f} s")
                if time.monotonic() - lost_at > LOST_SECONDS:
                    raise TrainingError(self._given_up(job, error)) from error
                time.sleep(RETRY_SECONDS)

    def _given_up(self, job: str, error: Exception) -> str:
        if isinstance(error, UserError):
            return (
                f"{error}, for {LOST_SECONDS:.0f} s now, and there was one: if the head was started anew, the job "
                "ended with it, and `noprop-dist resume` goes on with its run"
            )
        return f"{self.address}: no answer for {LOST_SECONDS:.0f} s, {job} may go on: {error}"

    def stop(self, job: str) -> None:
        """Ask a job to snapshot and end, and wait until it has.

        Raises:
            UserError: there is no such job, or the server does not answer.
            TrainingError: it did not end in time.
        """
        self._status(job)
        self._ask(lambda: self._client.stop_job(job))
        deadline = time.monotonic() + STOP_WAIT_SECONDS + LOST_SECONDS
        while not self._has_ended(job):
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"{job}: has not ended {STOP_WAIT_SECONDS + LOST_SECONDS:.0f} s after it was told to"
                )
            time.sleep(0.5)

    def all(self) -> list[tuple[str, str, str]]:
        """(id, status, command) of every job, the newest first."""
        found = sorted(self._ask(self._client.list_jobs), key=lambda each: each.start_time or 0, reverse=True)
        return [(each.submission_id or each.job_id or "", each.status.value, each.entrypoint) for each in found]

    def _ask(self, question: Callable[[], Answer], seconds: float = ANSWER_SECONDS) -> Answer:
        """Return the server's answer.

        Raises:
            UserError: it refuses, or does not answer within `seconds`.
        """
        try:
            return _within(seconds, question)
        except (AuthenticationError, OSError, RuntimeError, ValueError) as error:  # those of requests are OSErrors
            raise _refused(self.address, error) from error

    def _status(self, job: str) -> JobStatus:
        if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z_.-][A-Za-z0-9_.-]*", job):
            raise UserError(f"{job!r} is no job that was submitted: its id is what `submit` printed (raysubmit_…)")
        try:
            return _within(ANSWER_SECONDS, lambda: self._client.get_job_status(job))
        except RuntimeError as error:
            if "does not exist" in str(error):
                raise UserError(f"{job}: there is no such job at {self.address}") from error
            raise
        except AuthenticationError as error:
            raise _refused(self.address, error) from error

    def _has_ended(self, job: str) -> bool:
        try:
            ended: bool = self._status(job).is_terminal()
        except LOST:  # the connection may come back before the time is over
            return False
        return ended

    def _exit_code(self, job: str, status: JobStatus) -> int:
        details = self._ask(lambda: self._client.get_job_info(job))
        if details.driver_exit_code is not None:
            return int(details.driver_exit_code)
        by_status = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 128 + signal.SIGTERM}
        if status in by_status:
            return by_status[status]
        raise TrainingError(f"{job} {status.value.lower()}: {details.message}")


class _NoAgentError(UserError):
    """The head has no agent, or none yet."""


class _OutputError(Exception):
    """What is read cannot be shown, which says nothing of the connection."""

    def __init__(self, cause: OSError) -> None:
        self.cause = cause


class _Log:
    """Shows each part of a log once, although it may be read from its beginning again.

    Attributes:
        heard_at: when the server was last heard of while the log was read, monotonic seconds.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._shown = 0
        self.heard_at = time.monotonic()

    async def read(self, parts: AsyncIterator[str], status: Callable[[], JobStatus]) -> None:
        """Show what is new, until the server ends the log; whenever the log is silent, ask for the job's status."""
        at = 0
        while (part := await self._next(parts, status)) is not None:
            new = part[max(0, self._shown - at) :]
            at += len(part)
            if new:
                try:
                    self._show(new)
                except OSError as error:
                    raise _OutputError(error) from error
                self._shown = at

    async def _next(self, parts: AsyncIterator[str], status: Callable[[], JobStatus]) -> str | None:
        coming = asyncio.ensure_future(anext(parts, None))
        try:
            while not (await asyncio.wait([coming], timeout=SILENT_SECONDS))[0]:
                if status().is_terminal():
                    raise ConnectionError("the job has ended and its log says nothing of that")
                self.heard_at = time.monotonic()
            part = coming.result()
            self.heard_at = time.monotonic()
            return part
        finally:
            coming.cancel()


def _within(seconds: float, question: Callable[[], Answer]) -> Answer:
    """Return the answer to a question. The client by itself would wait for it without an end.

    Raises:
        TimeoutError: there is none within `seconds`.
    """
    answer = Future[Answer]()

    def ask() -> None:
        try:
            answer.set_result(question())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from error


def packages_of(folder: Path) -> list[str]:
    """The dependencies in a folder's pyproject.toml, and the lines of its constraints.txt that pin them.

    Ray is left out: the cluster runs its own. What Ray's extras need is not: a cluster may be without them. Pins are
    sent as requirements, for Ray would not notice that a file which these name has changed.

    Raises:
        UserError: there is no such pyproject.toml.
    """
    file, pins = folder / "pyproject.toml", folder / "constraints.txt"
    try:
        dependencies = [Requirement(each) for each in tomllib.loads(file.read_text())["project"]["dependencies"]]
        constraints = pins.read_text().splitlines() if pins.exists() else []
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"--install: {file} does not tell the packages: {why(error)}") from error
    extras = {extra for each in dependencies if each.name == "ray" for extra in each.extras}
    wanted = [str(each) for each in dependencies if each.name != "ray"] + _needed_by_ray(extras - {"default"})
    names = {_package(each) for each in wanted}
    return wanted + [each for each in constraints if _package(each) in names]


def _needed_by_ray(extras: set[str]) -> list[str]:
    """What Ray's extras need. A cluster with a jobs server has those of "default" already."""
    needed = [Requirement(each) for each in requires("ray") or () if "extra" in each]
    return sorted(
        {each.name for each in needed if each.marker and any(each.marker.evaluate({"extra": e}) for e in extras)}
    )


def _package(requirement: str) -> str:
    """The normalised name of the package that a line of requirements is about; empty for a comment or an option."""
    name = re.match(r"\s*([A-Za-z0-9][\w.-]*)", requirement)
    return re.sub(r"[-_.]+", "-", name[1]).lower() if name else ""


def _refused(address: str, error: Exception) -> UserError:
    text = str(error)
    if "Authentication required" in text:
        return UserError(f"--address {address}: the cluster asks for a token and none was found; put it in {PLACES}")
    if "Authentication failed" in text:
        return UserError(f"--address {address}: the cluster does not take the token of {PLACES}")
    if "No available agent" in text:
        return _NoAgentError(
            f"--address {address}: the agent of the cluster's head does not answer. Try again if the cluster has just "
            "started. If another Ray runs on its machine, start the head with --dashboard-agent-listen-port=0"
        )
    return UserError(f"--address {address}: {text.strip().splitlines()[0] if text.strip() else type(error).__name__}")
