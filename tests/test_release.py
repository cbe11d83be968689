"""A release against a loopback workspace: every end of a run, and every fault on the way."""

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
    EMPTY,
    HALF,
    HOLD,
    LOST,
    MODEL,
    REPORTING,
    SUMMARY,
    DatabricksServer,
    run,
)
from servers import free_port

CANDIDATE = "gh-17-1"
COMMON = ["--candidate", CANDIDATE, "--bundle-summary", "summary.json", "--git-commit", COMMIT]
Release = Callable[..., tuple[int, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DatabricksServer]:
    """A workspace where a training is about to succeed; the summary and an approval beside it."""
    for name in os.environ:
        if name.startswith(("DATABRICKS_", "GITHUB_", "ACTIONS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "page.md")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    Path("summary.json").write_text(json.dumps(SUMMARY))
    approve({})
    with DatabricksServer() as server:
        monkeypatch.setenv("DATABRICKS_HOST", server.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "a token")
        server.files = {f"{REPORTING}/{name}": name.encode() for name in release.REPORT}
        server.files[f"{REPORTING}/summary.md"] = f"| candidate | `{CANDIDATE}` |\n".encode()
        server.champion = CANDIDATE
        yield server


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Release:
    """Run the command without its pauses; return its exit code and what it logged."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    caplog.set_level(logging.INFO, "candlecast.databricks.release")

    def do(job: str, *more: str) -> tuple[int, str]:
        caplog.clear()
        return release.main([job, *COMMON, *more]), "\n".join(caplog.messages)

    return do


def approve(*changes: dict[str, Any]) -> None:
    """Write what GitHub answers: one approval by ada, or what is changed of it, per argument."""
    review = {"state": "approved", "comment": "", "user": {"login": "ada"}}
    review["environments"] = [{"name": "production"}]
    Path("approvals.json").write_text(json.dumps([review | change for change in changes]))


REGISTER = ("register", "--approvals", "approvals.json")

# --- Every end that a run can have ----------------------------------------------------------------


def test_success_is_success(server, go):
    server.script = [run("PENDING"), run("RUNNING"), run("TERMINATED", "SUCCESS")]
    assert go("train", "--set", "tickers=AAPL BTC-USD")[0] == 0
    assert server.started == [{"candidate": CANDIDATE, "tickers": "AAPL BTC-USD"}]
    assert server.cancelled == []
    kept = {file.name: file.read_bytes() for file in Path("report").iterdir()}
    assert kept == {name: server.files[f"{REPORTING}/{name}"] for name in release.REPORT}
    assert CANDIDATE in Path("page.md").read_text()


OTHER_ENDS = [
    *(("TERMINATED", result.value) for result in RunResultState if result.value != "SUCCESS"),
    ("TERMINATED", None),
    ("TERMINATED", "A_WORD_OF_TOMORROW"),
    ("SKIPPED", None),
    ("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED"),
    ("INTERNAL_ERROR", None),
    ("INTERNAL_ERROR", "FAILED"),
    ("INTERNAL_ERROR", "SUCCESS"),
]


@pytest.mark.parametrize(("life", "result"), OTHER_ENDS)
def test_any_other_end_is_a_failure(server, go, life, result):
    server.script = [run("RUNNING"), run(life, result, "So it goes.")]
    code, said = go("train")
    assert (code, len(server.started), Path("report").exists()) == (1, 1, False)
    assert life in said and "So it goes" in said and f"{server.url}/run/1" in said


def test_the_failing_task_and_its_cause_are_named(server, go):
    tasks = [
        run("TERMINATED", "FAILED", task_key="ingest", run_id=101, attempt_number=0),
        run("TERMINATED", "SUCCESS", task_key="ingest", run_id=102, attempt_number=1),
        run("TERMINATED", "FAILED", "It failed.", task_key="train", run_id=103),
        run("INTERNAL_ERROR", None, "No driver.", task_key="other", run_id=104),
        run("TERMINATED", "UPSTREAM_FAILED", task_key="evaluate", run_id=105),
    ]
    server.script = [run("TERMINATED", "FAILED", tasks=tasks)]
    server.outputs[103] = {"error": "\x1b[31mNotEnoughDataError\x1b[0m: There are 3\n of 9."}
    code, said = go("train")
    assert code == 1
    assert "Task train ended as TERMINATED FAILED: NotEnoughDataError: There are 3 of 9." in said
    assert "Task other ended as INTERNAL_ERROR: No driver." in said
    assert "Task ingest" not in said and "Task evaluate" not in said


# --- Faults on the way ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/jobs/run-now", "/runs/get", "/report.html", "/champion"])
@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, LOST, HALF])
def test_one_run_is_started_and_watched_through_faults(server, go, path, fault):
    server.faults[path] = [fault, fault]
    assert go(*(["train"] if path == "/report.html" else REGISTER))[0] == 0
    assert server.faults[path] == [] and len(server.started) == 1


@pytest.mark.parametrize("fault", [400, 403, 404, 500, LOST])
def test_what_stays_refused_or_broken_is_told(server, go, monkeypatch, fault):
    monkeypatch.setattr(release, "PATIENCE", 1)
    server.faults["/jobs/run-now"] = [fault] * 100_000
    code, said = go("train")
    assert (code, server.started if fault != LOST else []) == (1, [])
    assert "Could not run the job 11" in said
    assert fault == LOST or "so it says" in said


def test_a_workspace_that_nobody_answers_for_is_told(server, go, monkeypatch):
    for name, seconds in {"LOGIN": 1, "PATIENCE": 1, "MINUTE": 0.05}.items():
        monkeypatch.setattr(release, name, seconds)
    monkeypatch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{free_port()}")
    code, said = go("train")
    assert (code, "Could not" in said, "Still waiting to" in said) == (1, True, True)


def test_waiting_is_said_every_minute(server, go, monkeypatch):
    monkeypatch.setattr(release, "MINUTE", 0.02)
    server.script = [*[run("RUNNING")] * 20, run("TERMINATED", "SUCCESS")]
    code, said = go("train")
    assert (code, said.count("Still waiting to run the job 11") > 2) == (0, True)


def test_a_programming_error_is_shown_at_once(server, go):
    server.faults["/jobs/run-now"] = [EMPTY] * 100  # the SDK reads its run_id
    with pytest.raises(KeyError):
        go("train")
    assert sum(path.endswith("/run-now") for path in server.asked) == 1


@pytest.mark.parametrize(
    ("summary", "cause"),
    [(None, "No such file"), ("", "JSON"), ({"registered_models": {"model": {}}}, "not deployed")],
)
def test_a_summary_of_nothing_is_told(server, go, summary, cause):
    Path("summary.json").write_text(json.dumps({"resources": summary}) if summary else "")
    if summary is None:
        Path("summary.json").unlink()
    code, said = go("train")
    assert (code, server.asked, cause in said) == (1, [], True)


# --- What is approved is what is registered -------------------------------------------------------


def test_the_one_who_approved_registers_the_candidate(server, go):
    comment = 'Override: "worth it", says Ada:\nthe gate is {{{too}} strict'
    approve(
        {"environments": [{"name": "training"}], "user": {"login": "bob"}},
        {"state": "rejected", "user": {"login": "eve"}},
        {"comment": comment},
        {"user": None, "comment": None},
    )
    assert go(*REGISTER)[0] == 0
    [given] = server.started
    assert given["candidate"] == CANDIDATE and given["approver"] == "ada and ghost"
    assert given["override_reason"] == '"worth it", says Ada: the gate is { { {too}} strict'
    page = Path("page.md").read_text()
    assert f"Version 3 of `{MODEL}`" in page and "ada and ghost" in page and "worth it" in page


def test_by_hand_the_approver_is_said_and_a_long_reason_is_cut(server, go):
    given = ["approver=Doe, Ada", f"override_reason={'x' * 999}"]
    assert go("register", "--set", given[0], "--set", given[1])[0] == 0
    assert server.started[0]["approver"] == "Doe, Ada"
    assert len(server.started[0]["override_reason"]) == LONGEST_TEXT


@pytest.mark.parametrize("environment", [None, "training"])
def test_nobody_registers_what_nobody_approved(server, go, environment):
    approve(*[{"environments": [{"name": environment}]}] if environment else [])
    code, said = go(*REGISTER)
    assert (code, server.asked, "Nobody approved" in said) == (1, [], True)
    assert go("register")[0] == 1


@pytest.mark.parametrize("job", ["train", "register"])
def test_another_commit_than_the_deployed_one_is_stale(server, go, job):
    server.commit = "1e" * 20
    code, said = go(*(["train"] if job == "train" else REGISTER))
    assert (code, server.started) == (1, [])
    assert COMMIT in said and server.commit in said and "stale" in said


def test_a_candidate_that_the_job_refuses_is_told_with_its_reason(server, go):
    refused = "RegistrationError: gh-17-1 is stale: it was trained on prices v3"
    server.outputs[101] = {"error": refused}
    task = run("TERMINATED", "FAILED", task_key="register", run_id=101)
    server.script = [run("TERMINATED", "FAILED", tasks=[task])]
    code, said = go(*REGISTER)
    assert (code, refused in said) == (1, True)


def test_another_candidate_s_champion_or_report_is_a_failure(server, go):
    server.champion = "gh-18-1"
    code, said = go(*REGISTER)
    assert (code, "gh-18-1" in said, CANDIDATE in said) == (1, True, True)
    server.files[f"{REPORTING}/summary.md"] = (
        b"| candidate | `gh-17-10` |\nBetter than `gh-17-1`.\n"
    )
    code, said = go("train")
    assert (code, CANDIDATE in said, Path("page.md").exists()) == (1, True, False)


# --- Login without a secret -----------------------------------------------------------------------


@pytest.mark.parametrize("audience", ["the-audience", "another"])
def test_the_login_is_a_token_of_the_workflow_s_job(server, go, monkeypatch, audience):
    monkeypatch.delenv("DATABRICKS_TOKEN")
    server.token = "exchanged"
    for name, value in {
        "DATABRICKS_AUTH_TYPE": "github-oidc",
        "DATABRICKS_CLIENT_ID": "the-service-principal",
        "DATABRICKS_TOKEN_AUDIENCE": audience,
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of the job",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{server.url}/github/token?v=1",
        "GITHUB_ACTIONS": "true",
    }.items():
        monkeypatch.setenv(name, value)
    code, said = go("train")
    assert (code, len(server.started)) == ((0, 1) if audience == "the-audience" else (1, 0)), said
    assert code == 0 or said.startswith("::error::Could not log in as DATABRICKS_HOST")


# --- Signals --------------------------------------------------------------------------------------


def waiting_process() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "candlecast.databricks.release", "train", *COMMON]
    return subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(
    ("signals", "hold"),
    [
        ((signal.SIGINT, signal.SIGTERM), None),  # GitHub sends both, 7.5 seconds apart
        ((signal.SIGTERM,), None),
        ((signal.SIGTERM,), "/jobs/run-now"),  # the run's id has not come yet
        ((signal.SIGTERM,), "/jobs/get"),  # nothing is started yet
    ],
)
def test_a_cancelled_workflow_cancels_the_run(server, signals, hold):
    server.script = [run("RUNNING")]
    if hold:
        server.faults[hold] = [HOLD]
    with waiting_process() as waiting:
        assert server.watched.wait(60)
        since = time.monotonic()
        for number in signals:
            waiting.send_signal(number)
        said, _ = waiting.communicate(timeout=30)
    assert time.monotonic() - since < 7.5
    assert waiting.returncode == 128 + signals[0], said
    assert server.cancelled == ([] if hold == "/jobs/get" else [1])
    assert len(server.started) == len(server.cancelled)
    assert "Traceback" not in said


def test_a_run_that_cannot_be_cancelled_in_time_is_told(server):
    server.script = [run("RUNNING")]
    server.faults["/runs/cancel"] = [500] * 1000
    with waiting_process() as waiting:
        assert server.watched.wait(60)
        since = time.monotonic()
        waiting.terminate()
        said, _ = waiting.communicate(timeout=30)
    assert time.monotonic() - since < 20  # GitHub's limit is 10, but this machine may be busy
    assert (waiting.returncode, server.cancelled) == (1, [])
    assert "cancel it by hand" in said.splitlines()[-1]


def test_it_imports_nothing_that_its_lock_does_not_hold(server):
    code = (
        "import sys, candlecast.databricks.release; print(*{m.split('.')[0] for m in sys.modules})"
    )
    came = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert {"databricks", "tenacity", "candlecast"} <= came
    assert not came & {"kedro", "mlflow", "numpy", "pandas", "pydantic", "pyspark", "yaml"}
