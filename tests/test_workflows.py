"""The GitHub workflows: order, permissions, pinned actions, and what a release passes on."""

import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from candlecast.databricks.release import REPORT_FILES
from conftest import ROOT
from databricks_server import bundle_job

ACTION = ROOT / ".github/actions/databricks/action.yml"
FILES = [*sorted((ROOT / ".github/workflows").iterdir()), ACTION]
FLOWS = CI, LOCK, PAGES, RELEASE = [
    yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    for name in ("ci", "lock", "pages", "release")
]
BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text())
DEPLOYING = {"staging": "staging", "training": "prod", "register": "prod"}
"""The jobs that connect to Databricks, each with its bundle target."""


def shell(job: dict[str, Any]) -> str:
    """Return the commands of a job."""
    return "\n".join(step.get("run", "") for step in job["steps"])


def release_arguments(job: dict[str, Any]) -> list[str]:
    """Return the arguments with which a job calls the release."""
    [line] = re.findall(r"exec python -m candlecast\.databricks\.release ((?:\\\n|.)*)", shell(job))
    return shlex.split(line.replace("\\\n", " "))


def test_each_action_is_pinned_to_one_commit():
    uses = re.findall(r"uses: (?!\./)(.*)", "".join(file.read_text() for file in FILES))
    assert uses
    for use in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use
    assert len({use.split("@")[0] for use in uses}) == len(set(uses))


def test_permissions_are_minimal_and_no_secret_is_used():
    assert (CI["permissions"], RELEASE["permissions"]) == ({"contents": "read"}, {})
    assert PAGES["permissions"] == {}
    assert {key: job["permissions"] for key, job in PAGES["jobs"].items()} == {
        "build": {"contents": "read"},
        "publish": {"pages": "write", "id-token": "write"},
    }
    assert not any("permissions" in job for job in CI["jobs"].values())
    assert LOCK["permissions"] == {}
    assert [job["permissions"] for job in LOCK["jobs"].values()] == [
        {"contents": "write", "pull-requests": "write"}
    ]
    login = {"contents": "read", "id-token": "write"}
    assert {key: job["permissions"] for key, job in RELEASE["jobs"].items()} == {
        "checks": {"contents": "read"},
        "staging": login,
        "training": login | {"actions": "read"},
        "register": login | {"actions": "read"},
    }
    assert not any("secrets" in file.read_text() for file in FILES)


def test_jobs_have_timeouts_no_interpolated_commands_and_a_checkout_without_credentials():
    jobs = [job for flow in FLOWS for job in flow["jobs"].values() if "uses" not in job]
    assert len(jobs) > 5
    for job in jobs:
        assert job["timeout-minutes"] <= 180
        assert "${{" not in shell(job)
        checkouts = [step for step in job["steps"] if "actions/checkout" in step.get("uses", "")]
        assert [step["with"] for step in checkouts] == [{"persist-credentials": False}] or (
            job is PAGES["jobs"]["publish"] and not checkouts
        )


@pytest.mark.parametrize(("job", "name"), [("training", "train"), ("register", "register")])
def test_github_s_timeout_is_longer_than_that_of_the_job(job, name):
    limit = bundle_job(name)["timeout_seconds"]
    assert RELEASE["jobs"][job]["timeout-minutes"] * 60 > limit + 1800


def test_ci_runs_existing_make_targets_on_every_supported_python():
    jobs = [*CI["jobs"].values(), *PAGES["jobs"].values()]
    called = " ".join(re.findall(r"make ([\w -]+)", "\n".join(map(shell, jobs)))).split()
    matrix = CI["jobs"]["test"]["strategy"]["matrix"]["include"]
    makefile = (ROOT / "Makefile").read_text()
    for target in [*called, *(row["target"] for row in matrix)]:
        assert re.search(rf"^{target}:", makefile, re.M), target
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = SpecifierSet(project["requires-python"])
    assert [row["python"] for row in matrix] == [
        f"3.{minor}" for minor in range(30) if f"3.{minor}.0" in allowed
    ]


def test_a_release_runs_checks_staging_prod_and_approval_in_this_order():
    jobs = RELEASE["jobs"]
    needs = {key: job.get("needs") for key, job in jobs.items()}
    assert needs == {
        "checks": None,
        "staging": "checks",
        "training": "staging",
        "register": "training",
    }
    assert jobs["checks"]["uses"] == "./.github/workflows/ci.yml"
    assert jobs["checks"]["if"] == "github.ref == 'refs/heads/main'"
    environments = [jobs[job]["environment"] for job in DEPLOYING]
    assert environments == ["staging", "training", "production"]
    for job, target in DEPLOYING.items():
        assert set(re.findall(r" -t (\w+)", shell(jobs[job]))) == {target}
        assert ("bundle deploy" in shell(jobs[job])) == (job != "register")
        assert BUNDLE["targets"][target]["mode"] == "production"


def test_a_pending_approval_blocks_no_release_and_no_running_job_is_cancelled():
    groups = {key: job.get("concurrency") for key, job in RELEASE["jobs"].items()}
    assert "concurrency" not in RELEASE and groups.pop("register") is None
    assert len({group["group"] for group in groups.values()}) == 3
    assert not any(group["cancel-in-progress"] for group in groups.values())


def test_a_release_passes_on_candidate_commit_and_approvals():
    jobs = RELEASE["jobs"]
    named = 'candidate=gh-$GITHUB_RUN_ID-$GITHUB_RUN_ATTEMPT" >> "$GITHUB_OUTPUT"'
    assert named in shell(jobs["training"])
    assert "needs.training.outputs.candidate" in str(jobs["register"]["steps"])
    for job, command in zip(DEPLOYING, ("train", "train", "register"), strict=True):
        arguments = release_arguments(jobs[job])
        assert arguments[0] == command
        assert arguments[arguments.index("--git-commit") + 1] == "$GITHUB_SHA"
        assert f"> {arguments[arguments.index('--bundle-summary') + 1]}" in shell(jobs[job])
    assert "--approvals" in arguments and "> approvals.json" in shell(jobs["register"])
    [tickers] = [text for text in release_arguments(jobs["staging"]) if text.startswith("tickers=")]
    assert len(tickers.split()) == 2


def test_the_catalog_writes_the_report_files_that_a_release_downloads():
    catalog = (ROOT / "conf/base/catalog.yml").read_text()
    for name in REPORT_FILES:
        assert f"${{_root}}/reporting/{name}\n" in catalog


def test_the_bundle_allows_the_installed_cli():
    [version] = re.findall(r"version: (\d+\.\d+\.\d+)\n", ACTION.read_text())
    assert Version(version) in SpecifierSet(BUNDLE["bundle"]["databricks_cli_version"])


def test_both_lock_files_agree_and_a_release_installs_the_small_one():
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^(\S+==\S+)", (ROOT / name).read_text(), re.M))

    assert "requirements-release.lock" in ACTION.read_text()
    release = pins("requirements-release.lock")
    assert release <= pins("requirements.lock") and len(release) < 25
