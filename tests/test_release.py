"""A release against a loopback workspace: every end of a run, and every fault on the way."""

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import get_args

import pytest
import yaml
from databricks.sdk.service.jobs import (
    Run,
    RunLifeCycleState,
    RunLifecycleStateV2State,
    RunResultState,
    TerminationCodeCode,
)
from hypothesis import example, given
from hypothesis import strategies as st
from kedro.framework.cli.project import run as run_command
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import candlecast.release
from candlecast.parameters import Parameters
from candlecast.release import REPORT, _parser, has_ended, has_succeeded, main, plain, state_of
from conftest import ROOT
from databricks_server import (
    COMMIT,
    HALF,
    HOLD,
    LOST,
    MODEL,
    PAGE,
    RESET,
    VOLUME,
    DatabricksServer,
    approved,
    ended,
    newer,
    run,
    task,
)
from servers import free_port

CANDIDATE = "gh-17-1"
RUNNING = run("RUNNING")
COMMON = ["--candidate", CANDIDATE, "--git-commit", COMMIT, "--poll", "0.01", "--patience", "20"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DatabricksServer]:
    """A workspace in which a training is about to succeed, and a folder with its summary."""
    for name in os.environ:
        if name.startswith(("DATABRICKS_", "GITHUB_", "ACTIONS_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with DatabricksServer() as server:
        monkeypatch.setenv("DATABRICKS_HOST", server.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "a token")
        monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "page.md")
        Path("summary.json").write_text(json.dumps(server.summary()))
        written = {name: f"{name} of it".encode() for name in REPORT}
        written["summary.md"] = f"## No evidence\n\n| candidate | `{CANDIDATE}` |\n".encode()
        server.files = {f"{VOLUME}/reporting/{name}": text for name, text in written.items()}
        server.champion = (3, {"candidate": CANDIDATE})
        yield server


@pytest.fixture
def workflow(server: DatabricksServer, monkeypatch: pytest.MonkeyPatch) -> DatabricksServer:
    """The same in a workflow of GitHub, which was approved."""
    for name, value in {
        "GITHUB_ACTIONS": "true",
        "GITHUB_API_URL": f"{server.url}/github",
        "GITHUB_REPOSITORY": "ada/candlecast",
        "GITHUB_RUN_ID": "17",
        "GITHUB_RUN_ATTEMPT": "1",
        "GITHUB_TOKEN": "github's",
    }.items():
        monkeypatch.setenv(name, value)
    server.reviews = approved("ada")
    return server


Release = Callable[..., tuple[int, str]]


@pytest.fixture
def release(caplog: pytest.LogCaptureFixture) -> Release:
    """Run the command, give its exit code and what it said last."""

    def go(command: str, *more: str) -> tuple[int, str]:
        caplog.clear()
        caplog.set_level(logging.INFO, "candlecast.release")
        code = main([command, *COMMON, "--bundle-summary", "summary.json", *more])
        return code, caplog.messages[-1] if caplog.messages else ""

    return go


def page() -> str:
    return Path("page.md").read_text()


# --- Every end that a run can have ----------------------------------------------------------------

RESULTS = {
    "FAILED": "RUN_EXECUTION_ERROR",
    "TIMEDOUT": "CANCELED",
    "CANCELED": "USER_CANCELED",
    "SUCCESS_WITH_FAILURES": "SUCCESS_WITH_FAILURES",
    "UPSTREAM_FAILED": "SKIPPED",
    "UPSTREAM_CANCELED": "SKIPPED",
    "MAXIMUM_CONCURRENT_RUNS_REACHED": "MAX_CONCURRENT_RUNS_EXCEEDED",
    "EXCLUDED": "SKIPPED",
    "DISABLED": "DISABLED",
}
"""The bad results of the older words, and the code that comes with each in the newer ones."""

ADVICE = {
    "CANCELED": "Find out who cancelled it",
    "TIMEDOUT": "Raise timeout_seconds in resources/, or give it less to do",
    "MAXIMUM_CONCURRENT_RUNS_REACHED": "Wait for the end of the job's other run",
}


def test_every_result_that_the_api_has_is_tried_here():
    assert {*RESULTS, "SUCCESS"} == {result.value for result in RunResultState}


def test_success_is_success(server, release):
    server.script(ended("SUCCESS", code="SUCCESS"))
    assert release("train") == (0, "  run: SUCCESS")
    assert server.runs == 1
    assert server.started[0]["job_id"] == 11
    assert server.started[0]["job_parameters"] == {"candidate": CANDIDATE, "git_commit": COMMIT}
    assert server.cancelled == []


@pytest.mark.parametrize("result", RESULTS)
def test_any_other_result_is_a_failure(server, release, result):
    server.script(RUNNING, ended(result, message="So it goes."))
    assert release("train") == (
        1,
        f"Error: The job train did not succeed. Its run 1 ended as {result} (So it goes). "
        f"{ADVICE.get(result, 'Mend the cause')}, then run the release again. Look at {PAGE}",
    )
    assert f"ended as {result} (So it goes)" in page()
    assert not Path("report").exists()


@pytest.mark.parametrize("result", RESULTS)
def test_any_other_result_is_a_failure_in_the_newer_words_too(server, release, result):
    server.script(newer("RUNNING"), newer("TERMINATED", RESULTS[result], "So it goes."))
    code, said = release("train")
    assert (code, f"ended as {RESULTS[result]} (So it goes)" in said) == (1, True)


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (run("SKIPPED"), "SKIPPED"),
        (run("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED"), "SKIPPED, MAXIMUM_CONCURRENT_RUNS"),
        (run("INTERNAL_ERROR"), "INTERNAL_ERROR"),
        (run("INTERNAL_ERROR", "FAILED", "DRIVER_ERROR"), "INTERNAL_ERROR, FAILED, DRIVER_ERROR"),
        # The two sets of words disagree, or say nothing known.
        (run("INTERNAL_ERROR", "SUCCESS"), "INTERNAL_ERROR, SUCCESS"),
        (ended("SUCCESS", code="SUCCESS_WITH_FAILURES"), "SUCCESS, SUCCESS_WITH_FAILURES"),
        (ended("FAILED", code="SUCCESS"), "FAILED, SUCCESS"),
        (run("TERMINATED"), "TERMINATED"),
        (ended("A_WORD_OF_TOMORROW"), "TERMINATED"),
        (newer("TERMINATED"), "TERMINATED"),
    ],
)
def test_an_end_without_a_plain_success_is_a_failure(server, release, told, state):
    server.script(RUNNING, told)
    code, said = release("train")
    assert (code, f"Its run 1 ended as {state}" in said) == (1, True)


def test_no_code_of_a_termination_but_success_succeeds():
    for code in TerminationCodeCode:
        told = Run.from_dict(newer("TERMINATED", code.value))
        assert has_ended(told) and state_of(told) == code.value
        assert has_succeeded(told) == (code.value == "SUCCESS")


def test_nothing_is_an_end_but_an_end():
    on = {"BLOCKED", "PENDING", "QUEUED", "RUNNING", "TERMINATING", "WAITING_FOR_RETRY"}
    for life in RunLifeCycleState:
        assert has_ended(Run.from_dict(run(life.value))) == (life.value not in on)
    for state in RunLifecycleStateV2State:
        assert has_ended(Run.from_dict(newer(state.value))) == (state.value == "TERMINATED")
    assert not has_ended(Run())


def test_whatever_comes_before_the_end_is_waited_for(server, release, caplog):
    before = ["QUEUED", "BLOCKED", "PENDING", "WAITING_FOR_RETRY", "RUNNING", "A_NEW_WORD"]
    server.script(*(run(life) for life in [*before, "TERMINATING"]), ended("SUCCESS"))
    assert release("train")[0] == 0
    assert server.requests("/runs/get") == 8
    assert caplog.messages == [
        f"Run 1 of the job train: {PAGE}",
        "  run: QUEUED",
        "  run: BLOCKED",
        "  run: PENDING",
        "  run: WAITING_FOR_RETRY",
        "  run: RUNNING",
        "  run: of no state",
        "  run: TERMINATING",
        "  run: SUCCESS",
    ]


def test_the_failing_task_and_its_cause_are_named(server, release):
    server.script(
        ended(
            "FAILED",
            message="Task train failed.",
            tasks=[
                task("ingest", "TERMINATED", "SUCCESS"),
                task("preprocess", "TERMINATED", "SUCCESS"),
                task("train", "TERMINATED", "FAILED", message="Workload failed."),
                task("evaluate", "TERMINATED", "UPSTREAM_FAILED"),
            ],
        )
    )
    server.outputs["train"] = {"error": "\x1b[31mTooLittleHistoryError\x1b[0m: There are 3\n of 9."}
    code, said = release("train")
    assert (code, said) == (
        1,
        "Error: The job train did not succeed. Its run 1 ended as FAILED (Task train failed). "
        "Task train is FAILED: TooLittleHistoryError: There are 3 of 9. Mend the cause, then run "
        f"the release again. Look at {PAGE}",
    )


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ({"logs": "much\nIt broke.\n"}, "It broke. "),
        ({}, "Workload failed. "),
        (None, "Workload failed. "),
    ],
)
def test_a_task_that_tells_no_error_is_told_by_its_log_or_the_platform(
    server, release, output, cause
):
    failed = task("train", "INTERNAL_ERROR", "FAILED", message="Workload failed.")
    server.script(ended("FAILED", tasks=[failed]))
    server.outputs = {"train": output} if output is not None else {}
    assert f"Task train is INTERNAL_ERROR, FAILED: {cause}" in release("train")[1]


def test_an_attempt_that_was_followed_by_a_good_one_is_no_failure(server, release):
    tasks = [
        task("ingest", "TERMINATED", "SUCCESS", attempt=1),
        task("ingest", "TERMINATED", "FAILED", attempt=0),
    ]
    server.script(ended("SUCCESS", tasks=tasks))
    assert release("train")[0] == 0
    server.script(ended("FAILED", tasks=[*tasks, task("train", "TERMINATED", "FAILED")]))
    code, said = release("train")
    assert (code, "Task train" in said, "Task ingest" in said) == (1, True, False)


# --- Faults between -------------------------------------------------------------------------------

PASSING = [429, 500, 502, 503, 504, RESET, LOST, HALF]


@pytest.mark.parametrize("fault", PASSING)
def test_one_run_is_started_whatever_happens_to_the_request(server, release, fault):
    server.fault("/jobs/run-now", fault)
    assert release("train")[0] == 0
    assert server.requests("/jobs/run-now") == 2
    assert server.runs == 1
    assert len({started["idempotency_token"] for started in server.started}) == 1


@pytest.mark.parametrize("fault", PASSING)
def test_a_run_is_watched_through_faults(server, release, fault):
    server.script(RUNNING, RUNNING, ended("FAILED"))
    server.fault("/jobs/runs/get", fault)
    code, said = release("train")
    assert (code, "ended as FAILED" in said) == (1, True)
    assert server.cancelled == []


def test_a_workspace_that_stays_broken_is_given_up(server, release):
    server.fault("/jobs/run-now", *[500] * 10_000)
    code, said = release("train", "--patience", "1")
    assert (code, said) == (
        1,
        "Error: Asked Databricks to start the job train (11): refused, CODE_500 (so it says: 500). "
        "If the workspace is in trouble, try again later",
    )


@pytest.mark.parametrize("login", ["pat", "github-oidc"])
def test_a_workspace_that_nobody_answers_for_is_told_soon(server, release, monkeypatch, login):
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("DATABRICKS_HOST", address)
    monkeypatch.setenv("DATABRICKS_AUTH_TYPE", login)
    monkeypatch.setattr(candlecast.release, "FIRST", 1)
    since = time.monotonic()
    code, said = release("train", "--patience", "600")
    assert code == 1
    assert said.startswith(
        f"Error: Asked Databricks to let this process in: no answer from {address} for 1 seconds ("
    )
    assert "Connection refused" in said
    assert said.endswith("). Check DATABRICKS_HOST and the workspace's state, then try again")
    assert time.monotonic() - since < 5


def test_a_workspace_that_only_listens_is_told_soon(server, release):
    server.fault("/databricks-config", HOLD)
    code, said = release("train", "--patience", "1")
    assert (code, "for 1 seconds (timed out). Check DATABRICKS_HOST" in said) == (1, True)


def test_a_workspace_that_answered_once_is_asked_longer(server, release, monkeypatch):
    monkeypatch.setattr(candlecast.release, "FIRST", 1)
    server.fault("/jobs/run-now", *[500] * 5)
    assert release("train", "--poll", "0.3")[0] == 0
    server.fault("/jobs/get", *[500] * 5)
    code, said = release("train", "--poll", "0.3")
    assert (code, "refused, CODE_500 (so it says: 500)" in said) == (1, True)


@pytest.mark.parametrize(
    ("path", "needed"),
    [
        ("/jobs/get", "CAN VIEW on the job"),
        ("/jobs/run-now", "CAN MANAGE RUN on the job"),
        ("/jobs/runs/get", "CAN VIEW on the job"),
        ("/aliases/champion", f"EXECUTE on {MODEL}, USE SCHEMA and USE CATALOG"),
        ("/mlflow/runs/get", "CAN READ on the experiment"),
    ],
)
def test_a_missing_permission_is_named(workflow, release, path, needed):
    workflow.fault(path, 403)
    code, said = release("register")
    assert code == 1
    assert said.endswith(
        ": not permitted (so it says: 403). Let the deployment and this step have the same service "
        f"principal, or grant this one {needed}"
    )


def test_a_missing_permission_on_the_report_is_named(server, release):
    server.fault("/report.html", 403)
    assert release("train") == (
        1,
        f"Error: Asked Databricks to hand out {VOLUME}/reporting/report.html: not permitted (so it "
        "says: 403). Let the deployment and this step have the same service principal, or grant "
        f"this one READ VOLUME on {VOLUME}, USE SCHEMA and USE CATALOG",
    )


def test_a_login_that_is_not_accepted_is_told(server, release):
    server.fault("/jobs/get", 401)
    code, said = release("train")
    assert (code, server.runs) == (1, 0)
    assert "the login is not accepted (so it says: 401). Check DATABRICKS_HOST" in said


def test_a_job_that_is_not_there_is_told(server, release):
    summary = server.summary()
    summary["resources"]["jobs"]["train"]["id"] = "99"
    Path("summary.json").write_text(json.dumps(summary))
    code, said = release("train")
    assert code == 1
    assert said.startswith("Error: Asked Databricks to tell of the job train (99): there is no ")
    assert said.endswith(" Deploy first: databricks bundle deploy -t <target>")


# --- What must be given ---------------------------------------------------------------------------


def test_an_unset_variable_is_named(server, release, monkeypatch):
    monkeypatch.delenv("DATABRICKS_HOST")
    code, said = release("train")
    assert (code, "the variable DATABRICKS_HOST is not set. Set it" in said) == (1, True)
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_AUTH_TYPE", "github-oidc")
    monkeypatch.delenv("DATABRICKS_TOKEN")
    code, said = release("train")
    assert code == 1
    assert "Asked Databricks to let this process in: " in said
    assert "Check DATABRICKS_HOST, DATABRICKS_AUTH_TYPE and DATABRICKS_CLIENT_ID" in said


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (None, "The summary of the deployment is not there: summary.json (No such file"),
        ("", "summary.json is no summary of a deployment. Make it anew: databricks bundle summary"),
        ("[]", "summary.json is no summary of a deployment."),
        (
            '{"resources": {"jobs": {"train": {"name": "candlecast train"}}}}',
            "The bundle is not deployed as summary.json tells it: 'id' is missing. Deploy it: ",
        ),
    ],
)
def test_a_summary_of_nothing_is_told(server, release, summary, said):
    Path("summary.json").unlink()
    if summary is not None:
        Path("summary.json").write_text(summary)
    code, message = release("train")
    assert (code, message.removeprefix("Error: ")[: len(said)]) == (1, said)


@pytest.mark.parametrize("name", ["", "a,b=c", "it's", 'a"b', "a b", "-a", "a\n", "x" * 101])
def test_a_candidate_s_id_has_a_form(server, release, name):
    code, said = release("train", f"--candidate={name}")
    assert (code, server.asked) == (1, [])
    assert said == " ".join(
        f"Error: The candidate {name!r} is no id. It has letters, digits, '.', '_' and '-', begins "
        "with a letter or a digit, and is at most 100 characters long: --candidate gh-17-1".split()
    )


def test_the_form_of_an_id_is_the_project_s():
    [pattern] = [
        item.pattern
        for argument in Parameters.model_fields["candidate"].annotation.__args__
        for field in getattr(argument, "__metadata__", ())
        for item in field.metadata
        if getattr(item, "pattern", None)
    ]
    assert pattern == f"^{candlecast.release.ID}$"


@pytest.mark.parametrize("command", ["train", "register"])
def test_another_commit_than_the_deployed_one_is_stale(workflow, release, command):
    workflow.tags = {"commit": "1e" * 20}
    code, said = release(command)
    assert (code, workflow.runs) == (1, 0)
    assert said == (
        f"::error::This release is of commit {COMMIT}, and what is deployed by now is of commit "
        f"{'1e' * 20}. What was approved is stale: approve the newer release, or run this one "
        "again from its start"
    )


# --- Login without a secret -----------------------------------------------------------------------


@pytest.fixture
def federated(workflow: DatabricksServer, monkeypatch: pytest.MonkeyPatch) -> DatabricksServer:
    """The same, and the workspace trusts what GitHub says of the workflow's job."""
    monkeypatch.delenv("DATABRICKS_TOKEN")
    workflow.tokens = {"exchanged"}
    for name, value in {
        "DATABRICKS_AUTH_TYPE": "github-oidc",
        "DATABRICKS_CLIENT_ID": "the-service-principal",
        "DATABRICKS_TOKEN_AUDIENCE": "the-audience",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of the job",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{workflow.url}/github/token?v=1",
    }.items():
        monkeypatch.setenv(name, value)
    return workflow


def test_the_login_is_a_token_of_the_workflow_s_job(federated, release, monkeypatch):
    assert release("train")[0] == 0
    assert federated.runs == 1
    assert federated.exchanged[0]["client_id"] == "the-service-principal"
    assert federated.exchanged[0]["subject_token_type"] == "urn:ietf:params:oauth:token-type:jwt"
    # Without the permission id-token: write there is none.
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    code, said = release("train")
    assert code == 1
    assert said.startswith("::error::Asked Databricks to let this process in: ")


def test_a_login_without_a_federation_policy_is_told(federated, release):
    federated.fault("/v1/token", *[401] * 1000)
    assert release("train", "--patience", "1") == (
        1,
        "::error::Asked Databricks to tell of the job train (11): the login failed (access_denied: "
        "so it says: 401). Check DATABRICKS_HOST, DATABRICKS_AUTH_TYPE and DATABRICKS_CLIENT_ID, "
        "and that the service principal's federation policy names this repository and environment",
    )


def test_a_run_is_watched_through_faults_of_the_login(federated, release):
    federated.script(RUNNING, RUNNING, ended("SUCCESS"))
    federated.fault("/v1/token", 500, 503, RESET)
    assert release("train")[0] == 0
    assert federated.runs == 1


# --- The report -----------------------------------------------------------------------------------


def test_the_report_is_kept_and_summed_up(workflow, release):
    assert release("train", "--report-to", "kept/report")[0] == 0
    kept = {file.name: file.read_bytes() for file in Path("kept/report").iterdir()}
    assert kept == {name: workflow.files[f"{VOLUME}/reporting/{name}"] for name in REPORT}
    assert page() == (
        "## No evidence\n\n| candidate | `gh-17-1` |\n\n"
        f"Commit `{COMMIT}`, [run 1]({PAGE}). The whole report is an artifact of this page. Read "
        "it, then approve or refuse under Review deployments. An approval against the gate needs "
        "a comment that begins with `override:` and says why.\n\n"
    )


def test_the_report_of_another_candidate_is_refused(server, release):
    server.files[f"{VOLUME}/reporting/summary.md"] = (
        b"## Other\n\n| candidate | `gh-17-10` |\n\nIt is better than `gh-17-1`.\n"
    )
    code, said = release("train")
    assert code == 1
    assert said == (
        f"Error: The report in {VOLUME} is not of candidate {CANDIDATE}: another training has "
        "ended since. Run the release again"
    )
    assert not Path("report").exists()


def test_a_missing_report_is_a_failure(server, release):
    del server.files[f"{VOLUME}/reporting/report.html"]
    code, said = release("train")
    assert code == 1
    assert f"Asked Databricks to hand out {VOLUME}/reporting/report.html: there is no" in said
    assert said.endswith("The run's last task writes it: look into its log")


# --- Registering ----------------------------------------------------------------------------------


def test_the_one_who_approved_registers_the_candidate(workflow, release):
    workflow.reviews = [
        *approved("bob", environment="training"),
        {**approved("eve")[0], "state": "rejected"},
        *approved("ada", comment="LGTM, ship it"),
    ]
    assert release("register")[0] == 0
    assert workflow.started == [
        {
            "job_id": 12,
            "idempotency_token": workflow.started[0]["idempotency_token"],
            "job_parameters": {
                "candidate": CANDIDATE,
                "git_commit": COMMIT,
                "approver": "ada (GitHub)",
                "override_reason": "",
            },
        }
    ]
    assert page() == (
        f"## Version 3 of `{MODEL}` is champion\n\nCandidate `{CANDIDATE}` of commit `{COMMIT}`, "
        f"approved by ada (GitHub). [Run 1]({PAGE}).\n\n"
    )


def test_a_comment_may_say_why_the_gate_is_overridden(workflow, release):
    workflow.reviews = approved("ada", comment="Override: a first champion, to compare with")
    assert release("register")[0] == 0
    parameters = workflow.started[0]["job_parameters"]
    assert parameters["override_reason"] == "a first champion; to compare with"
    assert "Against the gate, because: a first champion; to compare with." in page()


def test_nobody_registers_what_nobody_approved(workflow, release):
    workflow.reviews = [*approved("bob", environment="training")]
    code, said = release("register")
    assert (code, workflow.runs) == (1, 0)
    assert said == (
        "::error::Nobody approved that this run goes on in the environment production. Give it "
        "required reviewers: Settings, Environments"
    )


def test_who_approved_must_be_told(workflow, release, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "another's")
    code, said = release("register")
    assert (code, workflow.runs) == (1, 0)
    assert said.startswith("::error::GitHub does not tell who approved (HTTP Error 404")
    assert said.endswith("The job needs the permission actions: read")
    monkeypatch.delenv("GITHUB_TOKEN")
    code, said = release("register")
    assert (code, workflow.runs) == (1, 0)
    assert said == (
        "::error::Who approved is not known: GITHUB_TOKEN not set. Outside of a workflow say it "
        "with --approver"
    )


def test_who_approved_may_have_left_github(workflow, release):
    workflow.reviews = [{**approved("ada")[0], "user": None}]
    assert release("register")[0] == 0
    assert workflow.started[0]["job_parameters"]["approver"] == "ghost (GitHub)"


def test_a_message_is_one_that_github_reads(workflow, release):
    workflow.script(ended("FAILED", message="It stopped at 50%0A"))
    assert "::error::The job train did not" in release("train")[1]
    assert "(It stopped at 50%250A)" in release("train")[1]
    assert "(It stopped at 50%0A)" in page()


def test_github_may_stumble(workflow, release):
    workflow.fault("/approvals", 502, RESET)
    assert release("register")[0] == 0
    assert workflow.requests("/approvals") == 3


def test_outside_of_a_workflow_the_approver_is_said(server, release):
    assert release("register", "--approver", "Doe, Ada", "--override-reason", "no: other")[0] == 0
    parameters = server.started[0]["job_parameters"]
    assert (parameters["approver"], parameters["override_reason"]) == ("Doe; Ada", "no - other")


def test_a_refused_candidate_is_told_with_the_reason(workflow, release):
    refused = "RefusedCandidateError: Candidate gh-17-1 is not registered: it is stale."
    workflow.script(ended("FAILED", tasks=[task("register", "TERMINATED", "FAILED")]))
    workflow.outputs["register"] = {"error": refused}
    code, said = release("register")
    assert code == 1
    assert said == (
        "::error::The job register did not succeed. Its run 1 ended as FAILED. Task register is "
        f"FAILED: {refused} Mend the cause, then run the release again. Look at {PAGE}"
    )


def test_another_champion_than_the_candidate_is_a_failure(workflow, release):
    workflow.champion = (4, {"candidate": "gh-18-1"})
    code, said = release("register")
    assert code == 1
    assert said == (
        f"::error::The job succeeded, and the champion of {MODEL} is version 4, of candidate "
        f"gh-18-1 and not of {CANDIDATE}: somebody registered that one since"
    )


def test_a_workflow_that_is_run_again_means_another_run(workflow, release, monkeypatch):
    assert [release("register")[0] for _ in range(2)] == [0, 0]
    assert workflow.runs == 1
    monkeypatch.setenv("GITHUB_RUN_ATTEMPT", "2")
    assert release("register")[0] == 0
    assert workflow.runs == 2


def test_by_hand_every_start_means_another_run(server, release):
    assert [release("train")[0] for _ in range(2)] == [0, 0]
    assert server.runs == 2


# --- What a task's command line takes -------------------------------------------------------------


def taken(text: str) -> object:
    """What the register task reads of a reason, with Databricks's own replacement left out."""
    options = ["--params", f"candidate=a,override_reason={text},catalog=b"]
    read = run_command.make_context("run", options).params["params"]
    assert (read["candidate"], read["catalog"]) == ("a", "b")
    return read["override_reason"]


@given(st.text(max_size=40) | st.text("ab1: #-?'\"{}[],&*!|>%@`\n", max_size=12))
@example("no")
@example("null")
@example("~")
@example(".inf")
@example("nan")
@example("+1")
@example("1e5")
@example("1_000")
@example("0x1f")
@example("12:30:45")
@example("2026-01-01")
@example("=")
@example("a: b #c")
@example("A::")
@example("x" * 499 + ":y")
@example("1" * 600)
@example("a\ufeffb\uffff")
@example("(0: 1)")
def test_any_text_reaches_the_task_as_text(text):
    made = plain(text)
    assert "{{" not in made and "${" not in made
    assert taken(made) == (made or None)
    assert plain(made) == made


def test_a_long_text_is_cut():
    assert plain("long " * 200) == ("long " * 100).strip()
    text, _ = get_args(Parameters.model_fields["override_reason"].annotation)
    [limit] = [
        item.max_length for item in text.__metadata__[0].metadata if hasattr(item, "max_length")
    ]
    assert len(plain("x" * 2000)) == limit


# --- Ends from outside ----------------------------------------------------------------------------


def process(command: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "candlecast.release", command, *COMMON),
            *("--bundle-summary", "summary.json", *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        # GitHub sends both, 7.5 seconds apart.
        ((signal.SIGINT, signal.SIGTERM), 130),
        ((signal.SIGTERM,), 143),
    ],
)
def test_a_cancelled_workflow_cancels_the_run(server, signals, code):
    server.script(RUNNING)
    with process("train") as waiting:
        assert server.watched.wait(60)
        since = time.monotonic()
        for number in signals:
            waiting.send_signal(number)
        said, _ = waiting.communicate(timeout=30)
        assert time.monotonic() - since < 7.5
    assert (waiting.returncode, server.cancelled) == (code, [1])
    assert said.splitlines()[-2:] == [
        "Run 1 of the job train is cancelled.",
        f"Ended by {signals[0].name}",
    ]
    assert "Traceback" not in said


def test_a_run_that_nobody_has_heard_of_yet_is_cancelled_too(server):
    server.fault("/jobs/run-now", HOLD)
    with process("train") as waiting:
        assert server.watched.wait(60)
        waiting.terminate()
        said, _ = waiting.communicate(timeout=30)
    server.held.set()
    assert (waiting.returncode, server.cancelled) == (143, [1]), said
    assert server.runs == 1


def test_a_run_that_cannot_be_cancelled_is_told(server):
    server.script(RUNNING)
    server.fault("/jobs/runs/cancel", 403)
    with process("train") as waiting:
        assert server.watched.wait(60)
        waiting.terminate()
        said, _ = waiting.communicate(timeout=30)
    assert (waiting.returncode, server.cancelled) == (1, [])
    assert said.splitlines()[-1] == (
        "Error: Asked Databricks to cancel run 1: not permitted (so it says: 403). Let the "
        "deployment and this step have the same service principal, or grant this one CAN MANAGE "
        "RUN on the job. The run of the job train may go on: cancel it there by hand"
    )


def test_a_run_is_cancelled_within_the_seconds_that_github_gives(server):
    server.script(RUNNING)
    server.fault("/jobs/runs/cancel", *[500] * 1000)
    with process("train", "--patience", "600") as waiting:
        assert server.watched.wait(60)
        waiting.terminate()
        since = time.monotonic()
        said, _ = waiting.communicate(timeout=60)
    # 10 seconds, but this machine may be busy; the patience is 600.
    assert time.monotonic() - since < 30
    assert (waiting.returncode, server.cancelled) == (1, [])
    assert "Asked Databricks to cancel run 1: refused, CODE_500" in said.splitlines()[-1]


def test_nothing_is_started_after_a_signal(server):
    server.fault("/jobs/get", HOLD)
    with process("train") as waiting:
        assert server.watched.wait(60)
        waiting.terminate()
        said, _ = waiting.communicate(timeout=30)
    assert (waiting.returncode, said) == (143, "Ended by SIGTERM\n")
    assert (server.runs, server.cancelled) == (0, [])


def test_the_log_and_the_message_go_separate_ways(server):
    server.script(RUNNING, ended("FAILED"))
    arguments = ["train", *COMMON, "--bundle-summary", "summary.json"]
    command = [sys.executable, "-m", "candlecast.release", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == f"Run 1 of the job train: {PAGE}\n  run: RUNNING\n  run: FAILED\n"
    assert done.stderr == (
        "Error: The job train did not succeed. Its run 1 ended as FAILED. Mend the cause, then run "
        f"the release again. Look at {PAGE}\n"
    )


def test_a_wrong_command_line_is_told():
    with process("trian") as wrong:
        said, _ = wrong.communicate(timeout=60)
    assert wrong.returncode == 2
    assert "invalid choice: 'trian'" in said.splitlines()[-1]


# --- In the workflow ------------------------------------------------------------------------------


def test_the_workflow_s_command_lines_are_understood():
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    lines = [
        re.sub(r"\\\n", " ", step["run"])
        for step in steps
        if "candlecast.release" in step.get("run", "")
    ]
    chosen = []
    for line in lines:
        _, arguments = line.split("python -m candlecast.release ")
        options = _parser().parse_args(shlex.split(arguments))
        chosen.append((options.command, options.candidate, options.git_commit))
        assert options.bundle_summary == Path("summary.json")
        written = f'bundle summary -t "$TARGET" -o json > {options.bundle_summary}'
        assert any(written in step.get("run", "") for step in steps)
    assert chosen == [
        ("train", "$CANDIDATE", "$GITHUB_SHA"),
        ("register", "$CANDIDATE", "$GITHUB_SHA"),
    ]
    assert options.environment == workflow["jobs"]["register"]["environment"]


def test_the_report_is_what_the_pipeline_writes():
    catalog = (ROOT / "conf/base/catalog.yml").read_text()
    for name in REPORT:
        assert f"${{_root}}/reporting/{name}\n" in catalog
    assert "data_root: ${volume}" in (ROOT / "conf/databricks/parameters.yml").read_text()


def needed_by(package: str) -> set[str]:
    """Packages that a package needs, and those that they need, by their normal names."""
    found: set[str] = set()
    to_do = [package]
    while to_do:
        name = canonicalize_name(to_do.pop())
        if name in found:
            continue
        found.add(name)
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                to_do.append(requirement.name)
    return found


def test_it_needs_the_sdk_and_nothing_else():
    def imported(code: str) -> set[str]:
        code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
        command = [sys.executable, "-c", code]
        return set(subprocess.check_output(command, text=True).split())

    allowed = needed_by("databricks-sdk") | {"candlecast"}
    owners = {
        module: {canonicalize_name(name) for name in names}
        for module, names in packages_distributions().items()
    }
    came = {name for name in imported("import candlecast.release") if name in owners}
    came -= imported("")  # what the environment imports at every start
    assert {"candlecast", "databricks", "requests"} <= came
    assert {name for name in came if not owners[name] & allowed} == set()
