"""What a release does on Databricks: start a job, wait for its end, demand that it succeeded.

``python -m candlecast.release train --candidate gh-17-1 --bundle-summary summary.json``, then, once
a person approved, ``… register …`` with the same candidate. Where and as whom comes from the
environment (DATABRICKS_HOST and a login). It needs databricks-sdk and nothing else.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.errors import (
    DeadlineExceeded,
    InternalError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.jobs import (
    Run,
    RunLifeCycleState,
    RunLifecycleStateV2State,
    RunResultState,
    RunTask,
    TerminationCodeCode,
)

from candlecast import __version__
from candlecast.candidate import CHAMPION, ID, LONGEST_TEXT
from candlecast.errors import CandlecastError

logger = logging.getLogger("candlecast.release")

SUMMARY = "summary.md"
REPORT = ("report.html", "model_card.md", "metrics.json", "gate.json", SUMMARY)
"""What the train job leaves in the folder ``reporting`` of its volume."""

OVERRIDE = "override:"
"""How the comment of an approval begins that says why a gate that did not pass is overridden."""

MANAGE, VIEW = "CAN MANAGE RUN on the job", "CAN VIEW on the job"
"""Permissions."""

FEDERATION = (
    "Check DATABRICKS_HOST, DATABRICKS_AUTH_TYPE and DATABRICKS_CLIENT_ID, and that the service "
    "principal's federation policy names this repository and environment"
)
"""What to do about a login that failed."""

ENDED = (
    RunLifeCycleState.TERMINATED,
    RunLifeCycleState.SKIPPED,
    RunLifeCycleState.INTERNAL_ERROR,
)

FIRST = 30
"""Seconds for which a workspace is asked that never answered yet: its address may be wrong."""

HURRY = 4
"""Seconds for cancelling a run: GitHub kills some 10 seconds after it asked to end."""

ADVICE = {
    "CANCELED": "Find out who cancelled it",
    "TIMEDOUT": "Raise timeout_seconds in resources/, or give it less to do",
    "SKIPPED": "If another run was in its way, wait for the end of that one",
    "MAXIMUM_CONCURRENT_RUNS_REACHED": "Wait for the end of the job's other run",
    "MAX_CONCURRENT_RUNS_EXCEEDED": "Wait for the end of the job's other run",
}
"""What to do after an end, by the word for it."""

Answer = TypeVar("Answer")


class DeploymentError(CandlecastError):
    """What was deployed is not what is to be run."""


class WorkspaceError(CandlecastError):
    """The workspace was asked for something and did not do it.

    Attributes:
        asked: for what, in words.
    """

    def __init__(self, asked: str, came: str, advice: str):
        self.asked = asked
        super().__init__(f"Asked Databricks to {asked}: {came.rstrip('.')}. {advice}")


class LoginError(OSError):
    """The login failed, for now or for good: the SDK does not tell which."""


class RunFailedError(CandlecastError):
    """A job's run came to another end than SUCCESS."""


class ApprovalError(CandlecastError):
    """Nobody is known who approved."""


class EndedFromOutsideError(BaseException):
    """A signal asks this process to end. No Exception, so that nothing tries again after it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@dataclass(frozen=True)
class Deployment:
    """What ``databricks bundle summary -o json`` tells of a deployment.

    Attributes:
        jobs: their ids, by their key in the bundle.
        volume: the folder of files, /Volumes/<catalog>/<schema>/<volume>.
        model: the registered model, <catalog>.<schema>.<name>.
    """

    jobs: dict[str, int]
    volume: str
    model: str

    @classmethod
    def read(cls, path: Path) -> "Deployment":
        """Read a summary.

        Raises:
            DeploymentError: there is none, or it is of a bundle that is not deployed.
        """
        command = f"databricks bundle summary -t <target> -o json > {path}"
        try:
            resources = json.loads(path.read_text())["resources"]
        except OSError as error:
            raise DeploymentError(
                f"The summary of the deployment is not there: {path} ({error.strerror}). "
                f"Make it: {command}"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise DeploymentError(
                f"{path} is no summary of a deployment. Make it anew: {command}"
            ) from None
        try:
            return cls(
                {key: int(job["id"]) for key, job in resources["jobs"].items()},
                "/Volumes/" + resources["volumes"]["files"]["id"].replace(".", "/"),
                resources["registered_models"]["model"]["id"],
            )
        except KeyError as error:
            raise DeploymentError(
                f"The bundle is not deployed as {path} tells it: {error} is missing. "
                "Deploy it: databricks bundle deploy -t <target>"
            ) from None


class Workspace:
    """A Databricks workspace that is asked patiently, and whose refusals are told in one sentence.

    Attributes:
        poll: seconds between two questions.
    """

    def __init__(self, poll: float, patience: int):
        """Log in, as the environment says.

        Args:
            poll: seconds between two questions.
            patience: seconds for which a workspace is asked again that does not answer.

        Raises:
            WorkspaceError: the environment does not say where or as whom, or the login failed.
        """
        self.poll, self._later = poll, patience
        if not (host := os.environ.get("DATABRICKS_HOST")):
            raise WorkspaceError(
                "let this process in",
                "the variable DATABRICKS_HOST is not set",
                "Set it to the workspace's address, and a login beside it (DATABRICKS_AUTH_TYPE "
                "and DATABRICKS_CLIENT_ID, or DATABRICKS_TOKEN)",
            )
        first = min(FIRST, patience)
        _demand_answer(host, poll, first)
        try:
            self._config = Config(
                retry_timeout_seconds=first,
                http_timeout_seconds=first,
                product="candlecast",
                product_version=__version__,
            )
            self._allow(first)
        except ValueError as error:
            raise WorkspaceError(
                "let this process in",
                _one_line(str(error)),
                FEDERATION,
            ) from None

    def ask(
        self,
        asked: str,
        question: Callable[[WorkspaceClient], Answer],
        needs: str,
        absent: str = "Deploy first: databricks bundle deploy -t <target>",
    ) -> Answer:
        """Ask for something that may be asked for twice, until there is an answer.

        The SDK tries again by itself after HTTP 429 and 503 and a lost connection; here, other
        faults of the server follow.

        Args:
            asked: for what, in words that follow "Asked Databricks to".
            question: the call.
            needs: the permission for it.
            absent: what to do when there is no such thing.

        Raises:
            WorkspaceError: it is refused, or nothing came in time.
        """

        def attempt() -> Answer:
            try:
                return question(self._client)
            except OSError:
                raise
            except Exception as error:
                # The SDK (0.156) logs in before every request, and has no class for a failure.
                raise LoginError(str(error)) from None

        try:
            answer = _persist(attempt, self.poll, self._patience)
        except LoginError as error:
            raise WorkspaceError(
                asked, f"the login failed ({_one_line(str(error))})", FEDERATION
            ) from None
        except Unauthenticated as error:
            raise WorkspaceError(
                asked,
                f"the login is not accepted ({_one_line(str(error))})",
                FEDERATION,
            ) from None
        except PermissionDenied as error:
            raise WorkspaceError(
                asked,
                f"not permitted ({_one_line(str(error))})",
                "Let the deployment and this step have the same service principal, or grant this "
                f"one {needs}",
            ) from None
        except NotFound as error:
            raise WorkspaceError(
                asked,
                f"there is no such thing ({_one_line(str(error))})",
                absent,
            ) from None
        except DatabricksError as error:
            raise WorkspaceError(
                asked,
                f"refused, {error.error_code or 'HTTP'} ({_one_line(str(error))})",
                "If the workspace is in trouble, try again later",
            ) from None
        except OSError as error:
            raise _silent(asked, str(self._config.host), self._patience, error) from None
        if self._later:
            self._allow(self._later)
        return answer

    def hurry(self, seconds: int) -> None:
        """From now on ask for some seconds only."""
        self.poll = min(self.poll, 1)
        self._allow(min(self._patience, seconds))

    def _allow(self, seconds: int) -> None:
        self._patience = self._config.retry_timeout_seconds = seconds
        self._config.http_timeout_seconds = min(60, seconds)
        self._client = WorkspaceClient(config=self._config)


def _silent(asked: str, host: str, seconds: int, error: OSError) -> WorkspaceError:
    return WorkspaceError(
        asked,
        f"no answer from {host} for {seconds} seconds ({_one_line(str(error.__cause__ or error))})",
        "Check DATABRICKS_HOST and the workspace's state, then try again",
    )


def _demand_answer(host: str, poll: float, seconds: int) -> None:
    """Demand that the host answers, whatever it says.

    Without, the SDK tries to find out how to log in for minutes, and then names another cause.
    """
    address = host if "://" in host else f"https://{host}"

    def knock() -> None:
        with (
            contextlib.suppress(HTTPError),
            urlopen(f"{address}/.well-known/databricks-config", timeout=min(10, seconds)),
        ):
            pass

    try:
        _persist(knock, max(poll, 0.1), seconds)
    except (OSError, ValueError, HTTPException) as error:
        cause = error if isinstance(error, OSError) else OSError(str(error))
        raise _silent("let this process in", address, seconds, cause) from None


def _persist(question: Callable[[], Answer], poll: float, seconds: float) -> Answer:
    """Ask again after a fault that may be gone soon, for some seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            return question()
        except OSError as error:
            if not _passing(error) or time.monotonic() + poll > end:
                raise
        time.sleep(poll)


def _passing(error: OSError) -> bool:
    """Whether a fault is the server's and may be gone soon, and the SDK has not tried again."""
    if isinstance(error, DatabricksError):
        # HTTP 502 has no class of its own.
        return (
            isinstance(error, (InternalError, DeadlineExceeded)) or type(error) is DatabricksError
        )
    if isinstance(error, HTTPError):
        return error.code >= 500 or error.code == 429
    return not isinstance(error, TimeoutError)


def carry_out(
    workspace: Workspace, job: str, job_id: int, token: str, parameters: dict[str, str]
) -> Run:
    """Start a job once, wait for its end and demand that it succeeded.

    Args:
        workspace: where.
        job: its key in the bundle, for messages.
        job_id: its id.
        token: asked for again with the same token, the same run is meant.
        parameters: of the job.

    Returns:
        The run.

    Raises:
        RunFailedError: it came to any other end.
        WorkspaceError: it could not be started or watched.
        EndedFromOutsideError: a signal; the run is cancelled then.
    """

    def start(client: WorkspaceClient) -> int:
        started = client.jobs.run_now(job_id, idempotency_token=token, job_parameters=parameters)
        return int(started.run_id)

    run_id = None
    try:
        run_id = workspace.ask(f"start the job {job} ({job_id})", start, MANAGE)
        run = _watch(workspace, job, run_id)
    except EndedFromOutsideError:
        _cancel(workspace, job, run_id, start)
        raise
    _demand_success(workspace, job, run)
    return run


def _cancel(
    workspace: Workspace, job: str, run_id: int | None, start: Callable[[WorkspaceClient], int]
) -> None:
    workspace.hurry(HURRY)
    try:
        # It may have started without this process having heard of it: the token brings its id.
        lost = run_id or workspace.ask(f"find the run of the job {job}", start, MANAGE)
        workspace.ask(f"cancel run {lost}", lambda client: client.jobs.cancel_run(lost), MANAGE)
    except WorkspaceError as error:
        raise RunFailedError(
            f"{error}. The run of the job {job} may go on: cancel it there by hand"
        ) from None
    logger.info("Run %s of the job %s is cancelled.", lost, job)


def _watch(workspace: Workspace, job: str, run_id: int) -> Run:
    said: dict[str, str] = {}
    while True:
        run = workspace.ask(
            f"tell of run {run_id} of the job {job}",
            lambda client: client.jobs.get_run(run_id),
            VIEW,
        )
        if not said:
            logger.info("Run %s of the job %s: %s", run_id, job, run.run_page_url)
        now = {"run": state_of(run)} | {key: state_of(task) for key, task in _tasks(run).items()}
        for name, state in now.items():
            if said.get(name) != state:
                logger.info("  %s: %s", name, state)
        said = now
        if has_ended(run):
            return run
        time.sleep(workspace.poll)


def has_ended(run: Run) -> bool:
    """Tell whether a run has come to an end, whichever; in the older or the newer words."""
    if run.state and run.state.life_cycle_state:
        return run.state.life_cycle_state in ENDED
    return bool(run.status and run.status.state is RunLifecycleStateV2State.TERMINATED)


def has_succeeded(run: Run | RunTask) -> bool:
    """Tell whether a run or a task succeeded, and nothing less: neither set of words objects."""
    says = []
    if run.state and run.state.life_cycle_state:
        says.append(
            run.state.life_cycle_state is RunLifeCycleState.TERMINATED
            and run.state.result_state is RunResultState.SUCCESS
        )
    if run.status and run.status.termination_details:
        says.append(run.status.termination_details.code is TerminationCodeCode.SUCCESS)
    return bool(says) and all(says)


def state_of(run: Run | RunTask) -> str:
    """Name the state of a run or of a task as the Jobs API does: ``SKIPPED, DISABLED``."""
    words: list[Any] = []
    if run.state:
        terminated = run.state.life_cycle_state is RunLifeCycleState.TERMINATED
        words += [None if terminated and run.state.result_state else run.state.life_cycle_state]
        words += [run.state.result_state]
    if run.status and run.status.termination_details:
        words += [run.status.termination_details.code]
    elif run.status and not any(words):
        words += [run.status.state]
    names = [word.value for word in words if word]
    return ", ".join(dict.fromkeys(names)) or "of no state"


def _tasks(run: Run) -> dict[str, RunTask]:
    """The last attempt of each task."""
    tasks = sorted(run.tasks or [], key=lambda task: task.attempt_number or 0)
    return {task.task_key: task for task in tasks}


def _demand_success(workspace: Workspace, job: str, run: Run) -> None:
    if has_succeeded(run):
        return
    workspace.hurry(FIRST)
    causes = []
    for key, task in _tasks(run).items():
        state = state_of(task)
        if not has_succeeded(task) and "UPSTREAM" not in state:
            causes.append(f"Task {key} is {state}: {_cause(workspace, task)}")
    message = run.state.state_message if run.state else None
    if not message and run.status and run.status.termination_details:
        message = run.status.termination_details.message
    advice = ADVICE.get(state_of(run).split(", ")[-1], "Mend the cause")
    raise RunFailedError(
        f"The job {job} did not succeed. Its run {run.run_id} ended as {state_of(run)}"
        + (f" ({_one_line(message).rstrip('.')})" if message else "")
        + ". "
        + "".join(f"{cause.rstrip('.')}. " for cause in causes)
        + f"{advice}, then run the release again. Look at {run.run_page_url}"
    )


def _cause(workspace: Workspace, task: RunTask) -> str:
    """What a task says it failed of; where it says nothing, what the platform says of it."""
    with contextlib.suppress(WorkspaceError):
        output = workspace.ask(
            f"tell the output of task {task.task_key}",
            lambda client: client.jobs.get_run_output(int(task.run_id or 0)),
            VIEW,
        )
        if said := (output.error or output.logs or "").strip():
            return _one_line(said if output.error else said.splitlines()[-1])
    message = task.state.state_message if task.state else None
    return _one_line(message or "it says nothing")


def fetch_report(workspace: Workspace, volume: str, candidate: str) -> dict[str, bytes]:
    """Fetch what the train job wrote for the person who approves.

    Returns:
        The files' contents, by name.

    Raises:
        WorkspaceError: a file is missing.
        DeploymentError: it is the report of another candidate.
    """

    def read(name: str) -> bytes:
        path = f"{volume}/reporting/{name}"

        def question(client: WorkspaceClient) -> bytes:
            contents = client.files.download(path).contents
            return contents.read() if contents else b""

        return workspace.ask(
            f"hand out {path}",
            question,
            f"READ VOLUME on {volume}, USE SCHEMA and USE CATALOG",
            "The run's last task writes it: look into its log",
        )

    files = {name: read(name) for name in REPORT}
    if f"| candidate | `{candidate}` |" not in files[SUMMARY].decode().splitlines():
        raise DeploymentError(
            f"The report in {volume} is not of candidate {candidate}: another training has ended "
            "since. Run the release again"
        )
    return files


def champion_version(workspace: Workspace, model: str, candidate: str) -> str:
    """Tell which version of the model is champion, and make sure that it is the candidate's.

    Raises:
        RunFailedError: another candidate is champion.
    """
    version = workspace.ask(
        f"name the champion of {model}, after the job succeeded",
        lambda client: client.model_versions.get_by_alias(model, CHAMPION),
        f"EXECUTE on {model}, USE SCHEMA and USE CATALOG",
        "The run's log tells what it registered",
    )
    if version.run_id:
        made_by = str(version.run_id)
        run = workspace.ask(
            f"tell of the MLflow run {made_by}",
            lambda client: client.experiments.get_run(made_by),
            "CAN READ on the experiment",
        ).run
        tags = (run.data.tags if run and run.data else None) or []
        of = {tag.key: tag.value for tag in tags}.get("candidate")
        if of != candidate:
            raise RunFailedError(
                f"The job succeeded, and the champion of {model} is version {version.version}, of "
                f"candidate {of} and not of {candidate}: somebody registered that one since"
            )
    return str(version.version)


def demand_commit(workspace: Workspace, job: str, job_id: int, commit: str) -> None:
    """Demand that what is deployed is of this commit, as the job's tag tells.

    Raises:
        DeploymentError: another commit was deployed since.
    """
    settings = workspace.ask(
        f"tell of the job {job} ({job_id})", lambda client: client.jobs.get(job_id), VIEW
    ).settings
    deployed = (settings.tags if settings else None) or {}
    if deployed.get("commit") != commit:
        raise DeploymentError(
            f"This release is of commit {commit}, and what is deployed by now is of commit "
            f"{deployed.get('commit', 'unknown')}. What was approved is stale: approve the newer "
            "release, or run this one again from its start"
        )


def approval_of(environment: str) -> tuple[str, str | None]:
    """Ask GitHub who approved that this workflow run goes on in an environment, and their reason.

    Returns:
        Who, and why a gate that did not pass is overridden (None: nobody says).

    Raises:
        ApprovalError: nobody did, or GitHub does not tell.
    """
    names = ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "GITHUB_TOKEN")
    if missing := [name for name in names if not os.environ.get(name)]:
        raise ApprovalError(
            f"Who approved is not known: {', '.join(missing)} not set. Outside of a workflow say "
            "it with --approver"
        )
    api, repository, run_id, token = (os.environ[name] for name in names)
    request = Request(
        f"{api}/repos/{repository}/actions/runs/{run_id}/approvals",
        headers={"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"},
    )

    def read() -> bytes:
        with urlopen(request, timeout=20) as answer:
            return bytes(answer.read())

    try:
        reviews = json.loads(_persist(read, 1, 20))
    except (OSError, ValueError, HTTPException) as error:
        raise ApprovalError(
            f"GitHub does not tell who approved ({error}). The job needs the permission "
            "actions: read"
        ) from None
    given = [
        review
        for review in reviews
        if review["state"] == "approved"
        and environment in [entry["name"] for entry in review["environments"]]
    ]
    if not given:
        raise ApprovalError(
            f"Nobody approved that this run goes on in the environment {environment}. Give it "
            "required reviewers: Settings, Environments"
        )
    # Who has left GitHub since has no name any more.
    people = list(
        dict.fromkeys((review["user"] or {"login": "ghost"})["login"] for review in given)
    )
    reasons = [
        comment[len(OVERRIDE) :]
        for review in given
        if (comment := (review.get("comment") or "").strip()).lower().startswith(OVERRIDE)
    ]
    return f"{' and '.join(people)} (GitHub)", "; ".join(reasons) or None


def plain(text: str) -> str:
    """Make of a text one that a task's ``--params`` takes as it is.

    They are split at commas and read as YAML, and Databricks fills in what is in double braces.

    >>> plain("Worth it, says Ada: the gate is {{too}} strict")
    'Worth it; says Ada - the gate is too strict'
    >>> plain("yes"), plain("2026 was bad")
    ('(yes)', '(2026 was bad)')
    """
    text = re.sub(
        r"""[{}\[\]$"`\\|>&*!%@<=~^]|[^\x20-\x7e\u00a1-\ud7ff\ue000-\ufefe\uff00-\ufffd]""",
        " ",
        text,
    )
    text = re.sub(r":+(?=\s|$)", " -", text.replace(",", ";"))
    text = re.sub(r"(^|\s)#+", " ", text)
    text = " ".join(text.split()).lstrip("-?:#'. ;")[:LONGEST_TEXT].rstrip(": ")
    # What YAML may take for a number, a date or a truth value.
    odd = re.match(r"[\d.+=~_]|(y|n|yes|no|on|off|true|false|null|nan|inf)$", text, re.IGNORECASE)
    return f"({text[: LONGEST_TEXT - 2]})" if odd else text


def train(options: argparse.Namespace, deployment: Deployment, workspace: Workspace) -> str:
    """Train a candidate, keep its report, and say what is to be approved.

    Returns:
        Markdown.
    """
    run = _run_job(options, deployment, workspace, {})
    files = fetch_report(workspace, deployment.volume, options.candidate)
    options.report_to.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        (options.report_to / name).write_bytes(contents)
    return (
        f"{files[SUMMARY].decode().rstrip()}\n\n"
        f"Commit `{options.git_commit}`, [run {run.run_id}]({run.run_page_url}). The whole report "
        "is an artifact of this page. Read it, then approve or refuse under Review deployments. "
        f"An approval against the gate needs a comment that begins with `{OVERRIDE}` and says why."
        "\n"
    )


def register(options: argparse.Namespace, deployment: Deployment, workspace: Workspace) -> str:
    """Register the candidate that a person approved, and say which version it became.

    Returns:
        Markdown.
    """
    who, why = options.approver, options.override_reason
    if not who:
        who, commented = approval_of(options.environment)
        why = why or commented
    who, why = plain(who), plain(why or "")
    run = _run_job(options, deployment, workspace, {"approver": who, "override_reason": why})
    version = champion_version(workspace, deployment.model, options.candidate)
    reason = f" Against the gate, because: {why}." if why else ""
    return (
        f"## Version {version} of `{deployment.model}` is champion\n\n"
        f"Candidate `{options.candidate}` of commit `{options.git_commit}`, approved by {who}."
        f"{reason} [Run {run.run_id}]({run.run_page_url}).\n"
    )


def _run_job(
    options: argparse.Namespace,
    deployment: Deployment,
    workspace: Workspace,
    parameters: dict[str, str],
) -> Run:
    job = options.command
    if job not in deployment.jobs:
        known = ", ".join(sorted(deployment.jobs))
        raise DeploymentError(f"There is no job {job} in the deployment. It has: {known}")
    given = {"candidate": options.candidate} | parameters
    if options.git_commit:
        demand_commit(workspace, job, deployment.jobs[job], options.git_commit)
        given["git_commit"] = options.git_commit
    # A workflow that is run again means another run: the old one would be the one that failed.
    attempt = [os.environ.get(name, "") for name in ("GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT")]
    name = " ".join([job, options.candidate, *(attempt if all(attempt) else [str(uuid.uuid4())])])
    token = uuid.uuid5(uuid.NAMESPACE_URL, name).hex  # at most 64 characters are taken
    return carry_out(workspace, job, deployment.jobs[job], token, given)


def _one_line(text: str) -> str:
    """Strip colours, line breaks and the SDK's list of its settings; end after 1000 characters."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return " ".join(re.sub(r"\. (Config|Env): \w+.*", "", text, flags=re.DOTALL).split())[:1000]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m candlecast.release",
        description="Start a job on Databricks, wait for its end and demand that it succeeded.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--candidate", required=True, help="its id")
    common.add_argument(
        "--bundle-summary",
        type=Path,
        required=True,
        help="what `databricks bundle summary -o json` wrote",
    )
    common.add_argument(
        "--git-commit", default="", help="demand that this is deployed, and the candidate's"
    )
    common.add_argument("--poll", type=float, default=10, help="seconds between two questions")
    common.add_argument(
        "--patience", type=int, default=600, help="seconds for which a silent workspace is asked"
    )
    training = commands.add_parser("train", parents=[common], help=train.__doc__)
    training.add_argument("--report-to", type=Path, default=Path("report"), help="a folder")
    training.set_defaults(do=train)
    registering = commands.add_parser("register", parents=[common], help=register.__doc__)
    registering.add_argument("--approver", default="", help="default: who approved on GitHub")
    registering.add_argument(
        "--override-reason", default="", help="why, when the gate has not passed"
    )
    registering.add_argument(
        "--environment", default="production", help="of GitHub, whose reviewer is the approver"
    )
    registering.set_defaults(do=register)
    return parser


def _tell(markdown: str) -> None:
    """Write onto the page of the workflow's run; without one, into the log."""
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if page:
        with Path(page).open("a") as opened:
            opened.write(markdown + "\n")
    else:
        logger.info("%s", markdown)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Make an exception of the first signal to end, and let the ones after it be: GitHub sends two.

    Python's own KeyboardInterrupt knows nothing of SIGTERM.
    """
    came: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            raise EndedFromOutsideError(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for.

    Returns:
        The process's exit code: 0 only if the job succeeded.
    """
    options = _parser().parse_args(arguments)
    told, wrong = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    told.addFilter(lambda record: record.levelno < logging.ERROR)
    wrong.setLevel(logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[told, wrong])
    logger.setLevel(logging.INFO)
    logging.getLogger("databricks.sdk").setLevel(logging.CRITICAL)
    try:
        with _signals():
            if not re.fullmatch(ID, options.candidate):
                raise DeploymentError(
                    f"The candidate {options.candidate!r} is no id. It has letters, digits, '.', "
                    "'_' and '-', begins with a letter or a digit, and is at most 100 characters "
                    "long: --candidate gh-17-1"
                )
            deployment = Deployment.read(options.bundle_summary)
            workspace = Workspace(options.poll, options.patience)
            _tell(options.do(options, deployment, workspace))
    except CandlecastError as error:
        if os.environ.get("GITHUB_STEP_SUMMARY"):
            _tell(f"## The release failed\n\n{error}\n")
        said = " ".join(str(error).split())
        # A line of this form is shown on the page of the workflow's run as well.
        if os.environ.get("GITHUB_ACTIONS") == "true":
            logger.error("::error::%s", said.replace("%", "%25"))
        else:
            logger.error("Error: %s", said)
        return 1
    except EndedFromOutsideError as error:
        logger.error("Ended by %s", signal.Signals(error.number).name)
        return 128 + error.number
    return 0


if __name__ == "__main__":
    sys.exit(main())
