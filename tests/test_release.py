"""A release against a loopback workspace: every outcome of a run, and every fault on the way."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk.service.jobs import RunResultState

from candlecast.databricks import release
from candlecast.names import LONGEST_TEXT
from conftest import ROOT
from databricks_server import (
    COMMIT,
    DROPPED,
    EMPTY,
    HELD,
    MODEL,
    REPORTING,
    SUMMARY,
    TRUNCATED,
    DatabricksServer,
    run,
)
from servers import free_port

CANDIDATE = "gh-17-1"
COMMON = ["--candidate", CANDIDATE, "--bundle-summary", "summary.json", "--git-commit", COMMIT]
REGISTER = ("register", "--approvals", "approvals.json")
Release = Callable[..., tuple[int, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DatabricksServer]:
    """A workspace where training will succeed; the bundle's summary and an approval as files."""
    for name in os.environ:
        if name.startswith(("DATABRICKS_", "GITHUB_", "ACTIONS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "page.md")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    Path("summary.json").write_text(json.dumps(SUMMARY))
    write_approvals({})
    with DatabricksServer() as server:
        monkeypatch.setenv("DATABRICKS_HOST", server.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "a token")
        server.files = {f"{REPORTING}/{name}": name.encode() for name in release.REPORT_FILES}
        server.files[f"{REPORTING}/summary.md"] = f"| candidate | `{CANDIDATE}` |\n".encode()
        server.champion = CANDIDATE
        yield server


@pytest.fixture
def run_release(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Release:
    """Run the command without its pauses; return its exit code and its log."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    caplog.set_level(logging.INFO, "candlecast.databricks.release")

    def run_command(job: str, *options: str) -> tuple[int, str]:
        caplog.clear()
        return release.main([job, *COMMON, *options]), "\n".join(caplog.messages)

    return run_command


def write_approvals(*changes: dict[str, Any]) -> None:
    """Write GitHub's list of approvals: one by ada per argument, with the argument's changes."""
    review = {"state": "approved", "comment": "", "user": {"login": "ada"}}
    review["environments"] = [{"name": "production"}]
    Path("approvals.json").write_text(json.dumps([review | change for change in changes]))


# --- Every outcome of a run -----------------------------------------------------------------------


def test_a_successful_run_succeeds(server, run_release):
    server.states = [run("PENDING"), run("RUNNING"), run("TERMINATED", "SUCCESS")]
    assert run_release("train", "--set", "tickers=AAPL BTC-USD")[0] == 0
    assert server.started == [{"candidate": CANDIDATE, "tickers": "AAPL BTC-USD"}]
    assert server.cancelled == []
    kept = {file.name: file.read_bytes() for file in Path("report").iterdir()}
    assert kept == {name: server.files[f"{REPORTING}/{name}"] for name in release.REPORT_FILES}
    assert CANDIDATE in Path("page.md").read_text()


OTHER_OUTCOMES = [
    *(("TERMINATED", result.value) for result in RunResultState if result.value != "SUCCESS"),
    ("TERMINATED", None),
    ("TERMINATED", "A_STATE_OF_THE_FUTURE"),
    ("SKIPPED", None),
    ("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED"),
    ("INTERNAL_ERROR", None),
    ("INTERNAL_ERROR", "FAILED"),
    ("INTERNAL_ERROR", "SUCCESS"),
]


@pytest.mark.parametrize(("life", "result"), OTHER_OUTCOMES)
def test_every_other_outcome_fails(server, run_release, life, result):
    server.states = [run("RUNNING"), run(life, result, "The cause.")]
    code, log = run_release("train")
    assert (code, len(server.started), Path("report").exists()) == (1, 1, False)
    assert life in log and "The cause" in log and f"{server.url}/run/1" in log


def test_failed_tasks_are_named_with_their_errors(server, run_release):
    tasks = [
        run("TERMINATED", "FAILED", task_key="ingest", run_id=101, attempt_number=0),
        run("TERMINATED", "SUCCESS", task_key="ingest", run_id=102, attempt_number=1),
        run("TERMINATED", "FAILED", "It failed.", task_key="train", run_id=103),
        run("INTERNAL_ERROR", None, "No driver.", task_key="other", run_id=104),
        run("TERMINATED", "UPSTREAM_FAILED", task_key="evaluate", run_id=105),
    ]
    server.states = [run("TERMINATED", "FAILED", tasks=tasks)]
    server.outputs[103] = {"error": "\x1b[31mNotEnoughDataError\x1b[0m: There are 3\n of 9."}
    code, log = run_release("train")
    assert code == 1
    assert "Task train ended as TERMINATED FAILED: NotEnoughDataError: There are 3 of 9." in log
    assert "Task other ended as INTERNAL_ERROR: No driver." in log
    assert "Task ingest" not in log and "Task evaluate" not in log


# --- Faults on the way ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/jobs/run-now", "/runs/get", "/report.html", "/champion"])
@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, DROPPED, TRUNCATED])
def test_transient_faults_are_retried_and_start_one_run(server, run_release, path, fault):
    server.faults[path] = [fault, fault]
    assert run_release(*(["train"] if path == "/report.html" else REGISTER))[0] == 0
    assert server.faults[path] == [] and len(server.started) == 1


@pytest.mark.parametrize("fault", [400, 403, 404, 500, DROPPED])
def test_permanent_faults_are_reported(server, run_release, monkeypatch, fault):
    monkeypatch.setattr(release, "REQUEST_TIMEOUT", 1)
    server.faults["/jobs/run-now"] = [fault] * 100_000
    code, log = run_release("train")
    assert (code, server.started if fault != DROPPED else []) == (1, [])
    assert "run job 11" in log
    assert fault == DROPPED or "rejected /api/2.2/jobs/run-now" in log


def test_an_unreachable_workspace_is_reported(server, run_release, monkeypatch):
    limits = {"LOGIN_TIMEOUT": 1, "REQUEST_TIMEOUT": 1, "REMINDER_INTERVAL": 0.05}
    for name, seconds in limits.items():
        monkeypatch.setattr(release, name, seconds)
    monkeypatch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{free_port()}")
    code, log = run_release("train")
    assert (code, "Could not" in log, "Still waiting to" in log) == (1, True, True)


def test_the_log_reminds_while_a_run_is_waited_for(server, run_release, monkeypatch):
    monkeypatch.setattr(release, "REMINDER_INTERVAL", 0.02)
    server.states = [*[run("RUNNING")] * 20, run("TERMINATED", "SUCCESS")]
    code, log = run_release("train")
    assert (code, log.count("Still waiting to run job 11") > 2) == (0, True)


def test_a_bug_keeps_its_traceback_and_is_not_retried(server, run_release):
    server.faults["/jobs/run-now"] = [EMPTY] * 100  # the SDK reads its run_id
    with pytest.raises(KeyError):
        run_release("train")
    assert sum(path.endswith("/run-now") for path in server.requested) == 1


@pytest.mark.parametrize(
    ("summary", "cause"),
    [(None, "No such file"), ("", "JSON"), ({"registered_models": {"model": {}}}, "not deployed")],
)
def test_an_unusable_bundle_summary_is_reported(server, run_release, summary, cause):
    Path("summary.json").write_text(json.dumps({"resources": summary}) if summary else "")
    if summary is None:
        Path("summary.json").unlink()
    code, log = run_release("train")
    assert (code, server.requested, cause in log) == (1, [], True)


# --- Only what was approved is registered ---------------------------------------------------------


def test_a_registration_receives_approvers_and_reason(server, run_release):
    comment = 'Override: "worth it", says Ada:\nthe gate is {{{too}} strict'
    write_approvals(
        {"environments": [{"name": "training"}], "user": {"login": "bob"}},
        {"state": "rejected", "user": {"login": "eve"}},
        {"comment": comment},
        {"user": None, "comment": None},
    )
    assert run_release(*REGISTER)[0] == 0
    [parameters] = server.started
    assert parameters["candidate"] == CANDIDATE and parameters["approver"] == "ada and ghost"
    assert parameters["override_reason"] == '"worth it", says Ada: the gate is { { {too}} strict'
    page = Path("page.md").read_text()
    assert f"Version 3 of `{MODEL}`" in page and "ada and ghost" in page and "worth it" in page


def test_without_github_approver_and_reason_are_options(server, run_release):
    options = ["--set", "approver=Doe, Ada", "--set", f"override_reason={'x' * 999}"]
    assert run_release("register", *options)[0] == 0
    assert server.started[0]["approver"] == "Doe, Ada"
    assert len(server.started[0]["override_reason"]) == LONGEST_TEXT


@pytest.mark.parametrize("environment", [None, "training"])
def test_nothing_is_registered_without_an_approval(server, run_release, environment):
    write_approvals(*[{"environments": [{"name": environment}]}] if environment else [])
    assert run_release(*REGISTER)[0] == 1
    assert run_release("register")[0] == 1
    assert server.requested == []


@pytest.mark.parametrize("job", ["train", "register"])
def test_a_release_requires_that_its_commit_is_deployed(server, run_release, job):
    server.commit = "1e" * 20
    code, log = run_release(*(["train"] if job == "train" else REGISTER))
    assert (code, server.started) == (1, [])
    assert COMMIT in log and server.commit in log


def test_the_reason_why_the_job_refuses_a_candidate_is_logged(server, run_release):
    refused = "RegistrationError: gh-17-1 is stale: it was trained on prices v3"
    server.outputs[101] = {"error": refused}
    task = run("TERMINATED", "FAILED", task_key="register", run_id=101)
    server.states = [run("TERMINATED", "FAILED", tasks=[task])]
    code, log = run_release(*REGISTER)
    assert (code, refused in log) == (1, True)


def test_a_champion_or_report_of_another_candidate_fails(server, run_release):
    server.champion = "gh-18-1"
    code, log = run_release(*REGISTER)
    assert (code, "gh-18-1" in log, CANDIDATE in log) == (1, True, True)
    server.files[f"{REPORTING}/summary.md"] = (
        b"| candidate | `gh-17-10` |\nBetter than `gh-17-1`.\n"
    )
    code, log = run_release("train")
    assert (code, CANDIDATE in log, Path("page.md").exists()) == (1, True, False)


# --- Login without a secret -----------------------------------------------------------------------


@pytest.mark.parametrize("audience", ["the-audience", "another"])
def test_a_workflow_job_logs_in_with_its_token(server, run_release, monkeypatch, audience):
    monkeypatch.delenv("DATABRICKS_TOKEN")
    server.token = "exchanged"
    for name, value in {
        "DATABRICKS_AUTH_TYPE": "github-oidc",
        "DATABRICKS_CLIENT_ID": "the-service-principal",
        "DATABRICKS_TOKEN_AUDIENCE": audience,
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the job's token",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{server.url}/github/token?v=1",
        "GITHUB_ACTIONS": "true",
    }.items():
        monkeypatch.setenv(name, value)
    code, log = run_release("train")
    assert (code, len(server.started)) == ((0, 1) if audience == "the-audience" else (1, 0)), log
    assert code == 0 or (log.startswith("::error::") and "DATABRICKS_HOST" in log)


# --- Signals --------------------------------------------------------------------------------------


def start_release() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "candlecast.databricks.release", "train", *COMMON]
    return subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(
    ("signals", "held"),
    [
        ((signal.SIGINT, signal.SIGTERM), None),  # GitHub sends both, 7.5 seconds apart
        ((signal.SIGTERM,), None),
        ((signal.SIGTERM,), "/jobs/run-now"),  # the run has started, but its id is not known yet
        ((signal.SIGTERM,), "/jobs/get"),  # nothing has started yet
    ],
)
def test_cancelling_the_workflow_cancels_the_run(server, signals, held):
    server.states = [run("RUNNING")]
    if held:
        server.faults[held] = [HELD]
    with start_release() as process:
        assert server.reached.wait(60)
        since = time.monotonic()
        for number in signals:
            process.send_signal(number)
        log, _ = process.communicate(timeout=30)
    assert time.monotonic() - since < 7.5
    assert process.returncode == 128 + signals[0], log
    assert server.cancelled == ([] if held == "/jobs/get" else [1])
    assert len(server.started) == len(server.cancelled)
    assert "Traceback" not in log


def test_a_failed_cancellation_is_reported_in_time(server):
    server.states = [run("RUNNING")]
    server.faults["/runs/cancel"] = [500] * 1000
    with start_release() as process:
        assert server.reached.wait(60)
        since = time.monotonic()
        process.terminate()
        log, _ = process.communicate(timeout=30)
    assert time.monotonic() - since < 20  # GitHub's limit is 10, but this machine may be busy
    assert (process.returncode, server.cancelled) == (1, [])
    assert "cancel it by hand" in log.splitlines()[-1]


def test_it_imports_only_packages_of_its_lock_file(server):
    code = (
        "import sys, candlecast.databricks.release; print(*{m.split('.')[0] for m in sys.modules})"
    )
    imported = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert {"databricks", "tenacity", "candlecast"} <= imported
    assert not imported & {"kedro", "mlflow", "numpy", "pandas", "pydantic", "pyspark", "yaml"}
