"""Start a job on Databricks, wait until it ends and require that it succeeded.

``python -m candlecast.databricks.release train --candidate gh-17-1 --bundle-summary summary.json``,
then, after a person has approved the candidate, ``… register …``. The workspace and the login come
from the environment: DATABRICKS_HOST and the other variables that Databricks' SDK reads.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import tenacity
from databricks.sdk import WorkspaceClient, errors
from databricks.sdk.config import Config
from databricks.sdk.service.jobs import Run, RunTask
from requests.exceptions import ChunkedEncodingError

from candlecast.errors import CandlecastError
from candlecast.names import CHAMPION, LONGEST_TEXT

logger = logging.getLogger("candlecast.databricks.release")

SUMMARY = "summary.md"
REPORT_FILES = ("report.html", "model_card.md", "metrics.json", "gate.json", SUMMARY)
"""What the train job writes into the folder ``reporting`` of its volume."""

LOGIN_TIMEOUT, REQUEST_TIMEOUT, CANCEL_TIMEOUT = 30, 300, 3
"""Seconds after which a request to an unreachable workspace is no longer retried."""

REMINDER_INTERVAL = 60
"""Seconds."""

SUCCESS = "TERMINATED SUCCESS"


@contextlib.contextmanager
def step(action: str, advice: str = "Fix the cause, then run the release again") -> Iterator[None]:
    """Log a reminder every minute until the block ends; raise its errors as one line."""
    done = threading.Event()

    def remind() -> None:
        while not done.wait(REMINDER_INTERVAL):
            logger.info("Still waiting to %s", action)

    threading.Thread(target=remind, daemon=True).start()
    try:
        yield
    except (OSError, ValueError) as error:  # the SDK's are OSErrors; a failed login a ValueError
        cause = f"{type(error).__name__}: {one_line(error)}"
        raise CandlecastError(f"Could not {action}: {cause}. {advice}") from None
    finally:
        done.set()


def retry(timeout: int) -> tenacity.Retrying:
    """Retry what the SDK does not: HTTP 500, 502 and 504, and truncated responses."""
    transient = (errors.InternalError, errors.DeadlineExceeded, ChunkedEncodingError)
    http_502 = tenacity.retry_if_exception(lambda error: type(error) is errors.base.DatabricksError)
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(transient) | http_502,
        wait=tenacity.wait_exponential(max=10),
        stop=tenacity.stop_after_delay(timeout),
        reraise=True,
    )


def connect(config: Config, timeout: int) -> WorkspaceClient:
    """Return a client that retries a failing request until the timeout, in seconds."""
    config.retry_timeout_seconds = timeout
    config.http_timeout_seconds = min(60, timeout)
    client = WorkspaceClient(config=config)
    client.api_client.do = retry(timeout).wraps(client.api_client.do)  # type: ignore[method-assign]
    return client


def run_job(client: WorkspaceClient, job_id: int, parameters: dict[str, str]) -> Run:
    """Run a job and require that it succeeds; cancel the run on SIGINT or SIGTERM."""
    request: dict[str, Any] = {"job_id": job_id, "job_parameters": parameters}
    request["idempotency_token"] = uuid.uuid4().hex  # sent again, it returns the same run
    try:
        with step(f"run job {job_id}"):
            run_id = client.jobs.run_now(**request).run_id
            logger.info("Waiting for %s/jobs/%s/runs/%s", client.config.host, job_id, run_id)
            with contextlib.suppress(errors.OperationFailed):  # INTERNAL_ERROR; get_run has details
                client.jobs.wait_get_run_job_terminated_or_skipped(run_id, timedelta(days=1))
            run = client.jobs.get_run(run_id)
    except SystemExit:  # from a signal, perhaps before the id of the run was known
        with step(f"cancel the run of job {job_id}", "It may still be running: cancel it by hand"):
            impatient = connect(client.config, CANCEL_TIMEOUT)
            impatient.jobs.cancel_run(impatient.jobs.run_now(**request).run_id)
        logger.info("The run is cancelled")
        raise
    if state_of(run) != SUCCESS:
        raise CandlecastError(
            f"Run {run_id} ended as {state_of(run)}. {' '.join(failures(client, run))} Fix the "
            f"cause, then run the release again. Details: {run.run_page_url}"
        )
    return run


def state_of(run: Run | RunTask) -> str:
    """Return the life cycle state and the result as the Jobs API names them: TERMINATED FAILED."""
    states = [run.state.life_cycle_state, run.state.result_state] if run.state else []
    return " ".join(state.value for state in states if state)


def failures(client: WorkspaceClient, run: Run) -> Iterator[str]:
    """Yield one sentence for the run and one per task whose last attempt failed."""
    if run.state and run.state.state_message:
        yield f"{one_line(run.state.state_message)}."
    attempts = sorted(run.tasks or [], key=lambda task: task.attempt_number or 0)
    for key, task in {task.task_key: task for task in attempts}.items():
        if (state := state_of(task)) != SUCCESS and "UPSTREAM" not in state:
            message = task.state.state_message if task.state else None
            with contextlib.suppress(OSError):
                message = client.jobs.get_run_output(int(task.run_id or 0)).error or message
            yield f"Task {key} ended as {state}: {one_line(message or 'no message')}."


def download_report(client: WorkspaceClient, folder: str, candidate: str) -> str:
    """Download the report of a training run into the folder ``report``; return its summary."""
    Path("report").mkdir(exist_ok=True)
    for name in REPORT_FILES:
        with step(f"download {folder}/{name}"):
            for attempt in retry(REQUEST_TIMEOUT):
                with attempt:
                    contents: Any = client.files.download(f"{folder}/{name}").contents
                    Path("report", name).write_bytes(contents.read())
    summary = Path("report", SUMMARY).read_text()
    if f"| candidate | `{candidate}` |" not in summary.splitlines():
        raise CandlecastError(
            f"The report in {folder} is not about candidate {candidate}: another training run has "
            "replaced it. Run the release again"
        )
    return summary


def champion_of(client: WorkspaceClient, model: str, candidate: str) -> int | None:
    """Return the champion's version; require that it is the candidate's."""
    with step(f"find the champion of {model}"):
        version = client.model_versions.get_by_alias(model, CHAMPION)
        run = client.experiments.get_run(str(version.run_id)).as_dict()["run"]
    tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
    if tags.get("candidate") != candidate:
        raise CandlecastError(
            f"The job registered {candidate}, but the champion of {model} is now version "
            f"{version.version}, candidate {tags.get('candidate')}: check the model's versions"
        )
    return version.version


def read_approvals(path: Path) -> dict[str, str]:
    """Read the approvers, and their reasons to override the gate, from GitHub's approvals."""
    people, reasons = [], []
    for review in json.loads(path.read_text()):
        environments = [environment["name"] for environment in review["environments"]]
        if review["state"] == "approved" and "production" in environments:
            people.append((review["user"] or {"login": "ghost"})["login"])  # a deleted account
            reasons += re.findall(r"(?is)^\s*override:\s*(.+)", review["comment"] or "")
    return {"approver": " and ".join(dict.fromkeys(people)), "override_reason": "; ".join(reasons)}


def sanitize(text: str) -> str:
    """Return the text on one line, at most 500 characters, without references to resolve.

    >>> sanitize("Worth it, says Ada: {{job.id}} is ${too} strict")
    'Worth it, says Ada: { {job.id}} is $ {too} strict'
    """
    text = re.sub(r"([{$])(?=\{)", r"\1 ", " ".join(text.split()))
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def one_line(message: object) -> str:
    """Return a message on one line, without colours and without its last full stop."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(message)).split()).rstrip(".")[:1000]


def release(options: argparse.Namespace) -> str:
    """Run the job that the options name; return a summary in Markdown."""
    with step("read --set, --approvals and --bundle-summary"):
        parameters = {"candidate": options.candidate}
        parameters |= dict(pair.split("=", 1) for pair in options.set)
        parameters |= read_approvals(options.approvals) if options.approvals else {}
        resources = json.loads(options.bundle_summary.read_text())["resources"]
        if "id" not in (model := resources["registered_models"]["model"]):
            raise ValueError("the bundle is not deployed")
    parameters = {key: sanitize(value) for key, value in parameters.items()}
    if options.job == "register" and not parameters.get("approver"):
        raise CandlecastError(
            "Nobody has approved this. Add required reviewers to the environment production, or "
            "pass --set approver=<name>"
        )
    with step("log in with DATABRICKS_HOST, DATABRICKS_AUTH_TYPE and DATABRICKS_CLIENT_ID"):
        config = Config(product="candlecast", retry_timeout_seconds=LOGIN_TIMEOUT)
        config.authenticate()
        client = connect(config, REQUEST_TIMEOUT)
    job_id = int(resources["jobs"][options.job]["id"])
    with step(f"read job {job_id}"):
        tags = client.jobs.get(job_id).as_dict()["settings"].get("tags", {})
    if options.git_commit not in (None, tags.get("commit")):
        raise CandlecastError(
            f"This release is for commit {options.git_commit}, but {tags.get('commit')} is now "
            "deployed: approve the newer release, or start a new one"
        )
    run = run_job(client, job_id, parameters)
    if options.job == "train":
        volume = resources["volumes"]["files"]["id"].replace(".", "/")
        folder = f"/Volumes/{volume}/reporting"
        summary = download_report(client, folder, options.candidate).rstrip()
    else:
        version = champion_of(client, model["id"], options.candidate)
        facts = [f"- {key}: {value}" for key, value in parameters.items() if value]
        summary = "\n".join([f"## Version {version} of `{model['id']}` is champion", "", *facts])
    return f"{summary}\n\n[Run {run.run_id}]({run.run_page_url})\n\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 only if the job succeeded."""
    parser = argparse.ArgumentParser(prog="python -m candlecast.databricks.release")
    add = parser.add_argument
    add("job", choices=("train", "register"))
    add("--candidate", required=True, help="id of the training run")
    add("--bundle-summary", type=Path, required=True, help="from `databricks bundle summary`, JSON")
    add("--git-commit", help="require that this commit is deployed")
    add("--approvals", type=Path, help="the workflow run's approvals from GitHub's API, JSON")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="a job parameter")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        summary = release(parser.parse_args(arguments))
    except CandlecastError as error:
        prefix = "::error::" if os.environ.get("GITHUB_ACTIONS") == "true" else "Error: "
        logger.error("%s%s", prefix, error)
        return 1
    logger.info(summary)
    with Path(os.environ.get("GITHUB_STEP_SUMMARY", os.devnull)).open("a") as page:
        page.write(summary)
    return 0


def exit_on_signal(number: int, _frame: object) -> None:
    """Exit with the signal's code; ignore further signals, as GitHub sends two."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, exit_on_signal)
    sys.exit(main())
