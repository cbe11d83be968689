"""Start a job on Databricks, wait for its end and demand that it succeeded.

``python -m candlecast.databricks.release train --candidate gh-17-1 --bundle-summary summary.json``,
then, once a person approved, ``… register …``. The environment says where: DATABRICKS_HOST …
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

REPORT = ("report.html", "model_card.md", "metrics.json", "gate.json", "summary.md")
"""What the train job leaves in the folder ``reporting`` of its volume; the last is Markdown."""

LOGIN, PATIENCE, HURRY, MINUTE = 30, 300, 3, 60
"""Seconds: how long a silent workspace is asked (to log in, later, after a signal); a reminder."""

SUCCESS = "TERMINATED SUCCESS"


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Log every minute that `what` is waited for; raise its failure in one sentence."""
    done = threading.Event()

    def remind() -> None:
        while not done.wait(MINUTE):
            logger.info("Still waiting to %s", what)

    threading.Thread(target=remind, daemon=True).start()
    try:
        yield
    except (OSError, ValueError) as error:  # the SDK's OSErrors; a ValueError when a login fails
        said = f"Could not {what}: {type(error).__name__}: {one_line(error)}"
        raise CandlecastError(f"{said}. Mend the cause, then run the release again") from None
    finally:
        done.set()


def retrying(seconds: int) -> tenacity.Retrying:
    """Return what retries a call after HTTP 500, 502, 504 and half an answer: the SDK does not."""
    classes = (errors.InternalError, errors.DeadlineExceeded, ChunkedEncodingError)
    http_502 = tenacity.retry_if_exception(lambda error: type(error) is errors.base.DatabricksError)
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(classes) | http_502,
        wait=tenacity.wait_exponential(max=10),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
    )


def connect(config: Config, seconds: int) -> WorkspaceClient:
    """Return a client that asks a silent workspace for some seconds."""
    config.retry_timeout_seconds = seconds
    config.http_timeout_seconds = min(60, seconds)
    client = WorkspaceClient(config=config)
    client.api_client.do = retrying(seconds).wraps(client.api_client.do)  # type: ignore[method-assign]
    return client


def run_job(client: WorkspaceClient, job_id: int, parameters: dict[str, str]) -> Run:
    """Start a job, wait for its end and demand that it succeeded; cancel it when a signal comes."""
    start: dict[str, Any] = {"job_id": job_id, "job_parameters": parameters}
    start["idempotency_token"] = uuid.uuid4().hex  # requested again, it means the same run
    try:
        with doing(f"run the job {job_id}"):
            run_id = client.jobs.run_now(**start).run_id
            logger.info("Waiting for %s/jobs/%s/runs/%s", client.config.host, job_id, run_id)
            with contextlib.suppress(errors.OperationFailed):  # INTERNAL_ERROR; get_run says more
                client.jobs.wait_get_run_job_terminated_or_skipped(run_id, timedelta(days=1))
            run = client.jobs.get_run(run_id)
    except SystemExit:  # a signal, perhaps before the run's id came
        with doing(f"cancel the run of the job {job_id}, which may go on: cancel it by hand"):
            hurried = connect(client.config, HURRY)
            hurried.jobs.cancel_run(hurried.jobs.run_now(**start).run_id)
        logger.info("The run is cancelled")
        raise
    if state_of(run) != SUCCESS:
        raise CandlecastError(
            f"Run {run_id} ended as {state_of(run)}. {' '.join(causes(client, run))} Mend the "
            f"cause, then run the release again. Look at {run.run_page_url}"
        )
    return run


def state_of(run: Run | RunTask) -> str:
    """Name a state as the Jobs API does: ``TERMINATED FAILED``."""
    words = [run.state.life_cycle_state, run.state.result_state] if run.state else []
    return " ".join(word.value for word in words if word)


def causes(client: WorkspaceClient, run: Run) -> Iterator[str]:
    """Yield one sentence for the run and for each task whose last attempt failed."""
    if run.state and run.state.state_message:
        yield f"{one_line(run.state.state_message)}."
    attempts = sorted(run.tasks or [], key=lambda task: task.attempt_number or 0)
    for key, task in {task.task_key: task for task in attempts}.items():
        if (state := state_of(task)) != SUCCESS and "UPSTREAM" not in state:
            said = task.state.state_message if task.state else None
            with contextlib.suppress(OSError):
                said = client.jobs.get_run_output(int(task.run_id or 0)).error or said
            yield f"Task {key} ended as {state}: {one_line(said or 'no message')}."


def keep_report(client: WorkspaceClient, folder: str, candidate: str) -> str:
    """Download the report of a training into the folder ``report``; return its summary."""
    Path("report").mkdir(exist_ok=True)
    for name in REPORT:
        with doing(f"download {folder}/{name}"):
            for attempt in retrying(PATIENCE):
                with attempt:
                    contents: Any = client.files.download(f"{folder}/{name}").contents
                    Path("report", name).write_bytes(contents.read())
    summary = Path("report", REPORT[-1]).read_text()
    if f"| candidate | `{candidate}` |" not in summary.splitlines():
        raise CandlecastError(f"The report is of another training than {candidate}: run it again")
    return summary


def champion_of(client: WorkspaceClient, model: str, candidate: str) -> int | None:
    """Return the version that is champion; demand that it is the candidate's."""
    with doing(f"find the champion of {model}"):
        version = client.model_versions.get_by_alias(model, CHAMPION)
        run = client.experiments.get_run(str(version.run_id)).as_dict()["run"]
    tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
    if tags.get("candidate") != candidate:
        raise CandlecastError(
            f"The job registered {candidate}, and by now version {version.version} of {model} is "
            f"champion, of candidate {tags.get('candidate')}: look at the model's versions"
        )
    return version.version


def read_approvals(path: Path) -> dict[str, str]:
    """Read who approved, and why against the gate, from GitHub's answer to ``…/approvals``."""
    people, reasons = [], []
    for review in json.loads(path.read_text()):
        places = [environment["name"] for environment in review["environments"]]
        if review["state"] == "approved" and "production" in places:
            people.append((review["user"] or {"login": "ghost"})["login"])  # has left GitHub
            reasons += re.findall(r"(?is)^\s*override:\s*(.+)", review["comment"] or "")
    return {"approver": " and ".join(dict.fromkeys(people)), "override_reason": "; ".join(reasons)}


def plain(text: str) -> str:
    """Return a text on one line, 500 characters at most, with no reference for others to resolve.

    >>> plain("Worth it, says Ada: {{job.id}} is ${too} strict")
    'Worth it, says Ada: { {job.id}} is $ {too} strict'
    """
    text = re.sub(r"([{$])(?=\{)", r"\1 ", " ".join(text.split()))
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def one_line(said: object) -> str:
    """Return what was said on one line, without colours and the last dot."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(said)).split()).rstrip(".")[:1000]


def release(options: argparse.Namespace) -> str:
    """Do what the command line says; return what is to be told, as Markdown."""
    with doing("read KEY=VALUE, the approvals and what `databricks bundle summary -o json` wrote"):
        given = {"candidate": options.candidate} | dict(pair.split("=", 1) for pair in options.set)
        given |= read_approvals(options.approvals) if options.approvals else {}
        deployed = json.loads(options.bundle_summary.read_text())["resources"]
        if "id" not in (model := deployed["registered_models"]["model"]):
            raise ValueError("the bundle is not deployed")
    given = {key: plain(value) for key, value in given.items()}
    if options.job == "register" and not given.get("approver"):
        raise CandlecastError(
            "Nobody approved. Set required reviewers of production; by hand, --set approver=<who>"
        )
    with doing("log in as DATABRICKS_HOST, DATABRICKS_AUTH_TYPE and DATABRICKS_CLIENT_ID say"):
        config = Config(product="candlecast", retry_timeout_seconds=LOGIN)
        config.authenticate()
        client = connect(config, PATIENCE)
    job_id = int(deployed["jobs"][options.job]["id"])
    with doing(f"read the job {job_id}"):
        tags = client.jobs.get(job_id).as_dict()["settings"].get("tags", {})
    if options.git_commit not in (None, tags.get("commit")):
        raise CandlecastError(
            f"This release is of commit {options.git_commit}, and by now {tags.get('commit')} is "
            "deployed: the approval is stale. Approve the newer release, or start a new one"
        )
    run = run_job(client, job_id, given)
    if options.job == "train":
        volume = deployed["volumes"]["files"]["id"].replace(".", "/")
        told = keep_report(client, f"/Volumes/{volume}/reporting", options.candidate).rstrip()
    else:
        version = champion_of(client, model["id"], options.candidate)
        facts = [f"- {key}: {value}" for key, value in given.items() if value]
        told = "\n".join([f"## Version {version} of `{model['id']}` is champion", "", *facts])
    return f"{told}\n\n[Run {run.run_id}]({run.run_page_url})\n\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 only if the job succeeded."""
    parser = argparse.ArgumentParser(prog="python -m candlecast.databricks.release")
    add = parser.add_argument
    add("job", choices=("train", "register"))
    add("--candidate", required=True, help="its id")
    add("--bundle-summary", type=Path, required=True, help="a JSON file")
    add("--git-commit", help="demand that this commit is deployed")
    add("--approvals", type=Path, help="who approved, as GitHub's API says it")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="a parameter of the job")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        told = release(parser.parse_args(arguments))
    except CandlecastError as error:
        prefix = "::error::" if os.environ.get("GITHUB_ACTIONS") == "true" else "Error: "
        logger.error("%s%s", prefix, error)
        return 1
    logger.info(told)
    with Path(os.environ.get("GITHUB_STEP_SUMMARY", os.devnull)).open("a") as page:
        page.write(told)
    return 0


def stop(number: int, _frame: object) -> None:
    """End the process as a signal demands, once: GitHub sends two."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    sys.exit(main())
