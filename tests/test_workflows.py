"""The GitHub workflows: pinned, bounded, with no secret; and what a release hands on."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pydantic import TypeAdapter

from candlecast.parameters import Parameters
from conftest import ROOT

FILES = {name: ROOT / f".github/workflows/{name}.yml" for name in ("ci", "release")}
WORKFLOWS = {name: yaml.safe_load(file.read_text()) for name, file in FILES.items()}
BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TRAINING = WORKFLOWS["release"]["jobs"]["training"]
REGISTER = WORKFLOWS["release"]["jobs"]["register"]


def triggers(name: str) -> Any:
    return WORKFLOWS[name][True]  # "on" is a truth value of YAML 1.1


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for key, job in workflow["jobs"].items():
            yield f"{name}.{key}", job


def shell(job: dict[str, Any]) -> str:
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def step_with(job: dict[str, Any], text: str) -> dict[str, Any]:
    [step] = [step for step in job["steps"] if text in step.get("run", "")]
    return step


# --- Both -----------------------------------------------------------------------------------------


def test_there_are_these_workflows():
    assert {file.stem for file in (ROOT / ".github/workflows").iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_actions_are_pinned_by_commit_and_say_their_version(name):
    uses = re.findall(r"uses: *(.*)", FILES[name].read_text())
    assert uses
    for use in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use


def test_one_action_has_one_pin():
    uses = re.findall(r"uses: *(\S+)@(\S+)", "".join(f.read_text() for f in FILES.values()))
    assert len(dict(uses)) == len(set(uses))


def test_every_job_ends():
    limits = {name: job["timeout-minutes"] for name, job in jobs()}
    assert limits == {
        "ci.lint": 20,
        "ci.test": 60,
        "ci.package": 20,
        "ci.workflows": 10,
        "release.training": 180,
        "release.register": 90,
    }


@pytest.mark.parametrize(("job", "name"), [(TRAINING, "train"), (REGISTER, "register")])
def test_github_waits_longer_than_databricks_runs(job, name):
    file = yaml.safe_load((ROOT / "resources/jobs.yml").read_text())
    assert job["timeout-minutes"] * 60 > file["resources"]["jobs"][name]["timeout_seconds"] + 1800


def test_permissions_are_the_least():
    assert WORKFLOWS["ci"]["permissions"] == {"contents": "read"}
    assert WORKFLOWS["release"]["permissions"] == {}
    given = {name: job.get("permissions") for name, job in jobs()}
    assert given == {
        "ci.lint": None,
        "ci.test": None,
        "ci.package": None,
        "ci.workflows": None,
        "release.training": {"contents": "read", "id-token": "write"},
        "release.register": {"actions": "read", "contents": "read", "id-token": "write"},
    }


def test_no_secret_and_no_credentials_left_behind():
    for name, job in jobs():
        assert "secrets." not in str(job), name
        [checkout] = [step for step in job["steps"] if "actions/checkout" in step.get("uses", "")]
        assert checkout["with"]["persist-credentials"] is False, name
        # A checkout of something else than the commit that was pushed would be named here.
        assert "ref" not in checkout["with"], name


def test_no_expression_is_pasted_into_a_shell():
    for name, job in jobs():
        assert "${{" not in shell(job), name


# --- Checks of a change ---------------------------------------------------------------------------


def test_changes_are_tested_on_every_python_that_is_allowed():
    tested = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = SpecifierSet(project["requires-python"])
    assert tested == [f"3.{minor}" for minor in range(30) if f"3.{minor}.0" in allowed]


def test_changes_pass_the_make_targets_and_log_in_nowhere():
    ci = WORKFLOWS["ci"]["jobs"]
    assert set(triggers("ci")) == {"pull_request", "push"}
    called = [target for job in ci.values() for target in re.findall(r"make (\w+)", shell(job))]
    assert called == ["lint", "test", "package", "workflows"]
    for target in called:
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target
    assert "DATABRICKS" not in FILES["ci"].read_text()
    assert "environment" not in str(ci)


# --- The release ----------------------------------------------------------------------------------


def test_a_release_is_of_main_and_of_a_target_that_there_is():
    assert set(triggers("release")) == {"push", "workflow_dispatch"}
    assert triggers("release")["push"] == {"branches": ["main"]}
    # A run by hand could be of any branch.
    assert TRAINING["if"] == "github.ref == 'refs/heads/main'"
    target = triggers("release")["workflow_dispatch"]["inputs"]["target"]
    production = [name for name, t in BUNDLE["targets"].items() if t["mode"] == "production"]
    assert sorted(target["options"]) == sorted(production)
    assert WORKFLOWS["release"]["env"]["TARGET"] == "${{ inputs.target || 'prod' }}"
    assert target["default"] == "prod"


def test_environments_are_named_and_the_login_is_theirs():
    assert (TRAINING["environment"], REGISTER["environment"]) == ("training", "production")
    for job in (TRAINING, REGISTER):
        assert job["env"] == {
            "DATABRICKS_AUTH_TYPE": "github-oidc",
            "DATABRICKS_HOST": "${{ vars.DATABRICKS_HOST }}",
            "DATABRICKS_CLIENT_ID": "${{ vars.DATABRICKS_CLIENT_ID }}",
            "DATABRICKS_TOKEN_AUDIENCE": "${{ github.server_url }}/${{ github.repository_owner }}",
        }
        first = job["steps"][0]["run"]
        assert "DATABRICKS_HOST DATABRICKS_CLIENT_ID" in first
        assert f"Settings, Environments, {job['environment']}." in first


def test_registering_deploys_nothing_and_takes_the_candidate_of_the_training():
    assert REGISTER["needs"] == "training"
    assert "bundle deploy" in shell(TRAINING)
    assert "deploy" not in shell(REGISTER)
    register = step_with(REGISTER, "candlecast.release register")
    assert register["env"]["CANDIDATE"] == "${{ needs.training.outputs.candidate }}"
    assert TRAINING["outputs"] == {"candidate": "${{ steps.name.outputs.candidate }}"}
    # The same files and values as the training had, so the summary is of the same deployment.
    overrides = "variable-overrides.json"
    assert step_with(TRAINING, overrides) == step_with(REGISTER, overrides)


def test_the_candidate_is_named_after_the_run_and_its_attempt():
    [step] = [step for step in TRAINING["steps"] if step.get("id") == "name"]
    template = re.search(r'"candidate=([^"]*)"', step["run"])
    assert template is not None
    name = template[1].replace("$GITHUB_RUN_ID", "17").replace("$GITHUB_RUN_ATTEMPT", "2")
    # A command line would make a number of digits alone.
    assert name == "gh-17-2"
    candidate = TypeAdapter(Parameters.model_fields["candidate"].annotation)
    assert candidate.validate_python(name) == name


@pytest.mark.parametrize("job", [TRAINING, REGISTER], ids=["train", "register"])
def test_a_cancelled_workflow_reaches_the_python_that_waits(job):
    # The runner signals the shell only: the shell must have become Python.
    lines = step_with(job, "candlecast.release")["run"].splitlines()
    assert lines[0].startswith("exec python -m candlecast.release ")
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_waiting_approval_holds_no_group():
    assert "concurrency" not in WORKFLOWS["release"]
    assert "concurrency" not in REGISTER
    # A deployment takes away the wheel of the one before: not while that trains.
    assert TRAINING["concurrency"] == {
        "group": "training-${{ inputs.target || 'prod' }}",
        "cancel-in-progress": False,
    }


def test_the_command_line_tool_is_one_that_the_bundle_allows():
    allowed = SpecifierSet(BUNDLE["bundle"]["databricks_cli_version"])
    for job in (TRAINING, REGISTER):
        [step] = [step for step in job["steps"] if "setup-cli" in step.get("uses", "")]
        assert Version(step["with"]["version"]) in allowed
