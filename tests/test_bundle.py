"""The Databricks bundle, without a workspace: whatever it names exists where it points."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.cli.project import run as run_command
from packaging.specifiers import SpecifierSet

import candlecast
from candlecast import settings
from candlecast.parameters import Parameters, check_parameters
from candlecast.pipeline_registry import register_pipelines
from conftest import ROOT

BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text())
FILES = [ROOT / "databricks.yml", *sorted((ROOT / "resources").glob("*.yml"))]
TARGETS = ["dev", "staging", "prod"]
JOBS = {"train", "register", "forecast"}
COMMIT = "0f" * 20
GIVEN = {
    "bundle": {"name": "candlecast", "git": {"commit": COMMIT}},
    "workspace": {
        "current_user": {"userName": "somebody@example.com"},
        "file_path": str(ROOT),
    },
}
"""What the command line tool knows and no file says."""

RUNTIMES = {"5": ("3.12", "4.1"), "18.x-scala2.13": ("3.12", "4.1")}
"""Python and Spark of serverless environments and runtimes, from the platform's release notes."""

JobParameters = dict[str, str]


# --- What the tool does with the files ------------------------------------------------------------


def resources() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in FILES[1:]:
        for kind, entries in yaml.safe_load(file.read_text())["resources"].items():
            assert not set(entries) & set(merged.get(kind, {})), f"{file} repeats a key of {kind}"
            merged.setdefault(kind, {}).update(entries)
    return merged


def resolved(target: str, **variables: object) -> dict[str, Any]:
    """The resources of a target, with every reference replaced; an unknown one is a KeyError."""
    values = {name: variable["default"] for name, variable in BUNDLE["variables"].items()}
    values |= BUNDLE["targets"][target].get("variables", {}) | variables
    known = {**GIVEN, "bundle": GIVEN["bundle"] | {"target": target}}
    known |= {"var": values, "resources": resources()}

    def look_up(path: str) -> Any:
        value: Any = known
        for key in path.split("."):
            value = replace(value)[key] if isinstance(value, str) else value[key]
        return replace(value)

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replace(item) for key, item in value.items()}
        if isinstance(value, list):
            return [replace(item) for item in value]
        if not isinstance(value, str):
            return value
        if whole := re.fullmatch(r"\$\{([\w.]+)\}", value):
            return look_up(whole[1])
        return re.sub(r"\$\{([\w.]+)\}", lambda found: str(look_up(found[1])), value)

    return replace(known["resources"])


def tasks(jobs: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for job in jobs.values():
        for task in job["tasks"]:
            yield job, task


def argv(job: dict[str, Any], task: dict[str, Any], given: JobParameters) -> list[str]:
    """What the task's process is called with."""
    values = {parameter["name"]: parameter["default"] for parameter in job["parameters"]}
    assert set(given) <= set(values), "a run with an undeclared parameter is refused"
    values |= given
    return [
        re.sub(r"\{\{job\.parameters\.(\w+)\}\}", lambda found: values[found[1]], item)
        for item in task["python_wheel_task"]["parameters"]
    ]


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


# --- Variables and targets ------------------------------------------------------------------------


def test_every_variable_is_described_has_a_value_and_is_used():
    everything = "".join(file.read_text() for file in FILES)
    for name, variable in BUNDLE["variables"].items():
        assert variable["description"].endswith("."), f"{name} is not described"
        assert "default" in variable, f"{name} must be given"
        # The alternative of the compute is used when somebody says so.
        used = re.search(rf"\$\{{var\.{name}\b", everything)
        assert used or name == "classic", f"nothing uses the variable {name}"


@pytest.mark.parametrize("target", TARGETS)
def test_every_reference_of_a_target_points_somewhere(target):
    assert list(BUNDLE["targets"]) == TARGETS
    assert [text for text in texts(resolved(target)) if "${" in text] == []


def test_targets_differ_in_values_only():
    for target in BUNDLE["targets"].values():
        assert set(target) <= {"mode", "default", "workspace", "variables"}
        assert set(target.get("workspace", {})) <= {"root_path"}
        assert set(target.get("variables", {})) <= set(BUNDLE["variables"])
    modes = {name: target["mode"] for name, target in BUNDLE["targets"].items()}
    assert modes == {"dev": "development", "staging": "production", "prod": "production"}
    root = {BUNDLE["targets"][name]["workspace"]["root_path"] for name in ("staging", "prod")}
    assert root == {
        "/Workspace/Users/${workspace.current_user.userName}/.bundle/${bundle.name}/${bundle.target}"
    }
    schemas = [resolved(target)["schemas"]["tables"]["name"] for target in TARGETS]
    assert schemas == ["candlecast_dev", "candlecast_staging", "candlecast"]


def test_the_forecast_runs_by_itself_in_prod_only_and_after_the_close_in_new_york():
    schedules = [resolved(target)["jobs"]["forecast"]["schedule"] for target in TARGETS]
    assert [schedule["pause_status"] for schedule in schedules] == ["PAUSED", "PAUSED", "UNPAUSED"]
    [zone] = {schedule["timezone_id"] for schedule in schedules}
    [cron] = {schedule["quartz_cron_expression"] for schedule in schedules}
    second, minute, hour, _, _, days = cron.split()
    assert (zone, days) == ("America/New_York", "MON-FRI")
    assert int(hour) * 3600 + int(minute) * 60 + int(second) > 16 * 3600


def test_the_version_is_the_package_s():
    assert BUNDLE["variables"]["version"]["default"] == candlecast.__version__


def test_no_address_no_person_no_secret():
    for file in [*FILES, *(ROOT / ".github/workflows").glob("*.yml")]:
        text = file.read_text()
        for wrong in [r"https?://", r"\w@\w+\.\w", r"\bdapi", r"(?<![-\w])(host|token|user_name):"]:
            found = re.search(wrong, text)
            assert not found, f"{file.name} holds {found[0] if found else ''}"


# --- Storage --------------------------------------------------------------------------------------


def test_what_jobs_write_into_is_made_by_the_deployment():
    made = resolved("prod", catalog="sales")
    assert {kind: list(entries) for kind, entries in made.items() if kind != "jobs"} == {
        "schemas": ["tables"],
        "volumes": ["files"],
        "registered_models": ["model"],
        "experiments": ["runs"],
    }
    [volume, model] = made["volumes"]["files"], made["registered_models"]["model"]
    assert (volume["catalog_name"], volume["schema_name"]) == ("sales", "candlecast")
    assert (model["catalog_name"], model["schema_name"]) == ("sales", "candlecast")
    # The deployment's own folder is below it, so it is there; /Workspace is no part of the name.
    assert made["experiments"]["runs"]["name"] == "/Users/somebody@example.com/candlecast-prod"
    # Development puts a name in front of these: tasks must be told what came of it.
    raw = "".join(texts(resources()["jobs"]))
    for literal in ("${var.schema}", "${var.volume}"):
        assert literal not in raw


# --- Jobs and tasks -------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", ["serverless", "classic"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_task_has_the_compute_that_it_names(target, compute):
    jobs = resolved(target, compute=f"${{var.{compute}}}")["jobs"]
    assert set(jobs) == JOBS
    for job, task in tasks(jobs):
        environments = {entry["environment_key"]: entry["spec"] for entry in job["environments"]}
        clusters = {entry["job_cluster_key"]: entry["new_cluster"] for entry in job["job_clusters"]}
        if compute == "serverless":
            # A wheel task on serverless compute takes neither libraries nor a cluster.
            assert (task["job_cluster_key"], task["libraries"], clusters) == ("", [], {})
            assert environments[task["environment_key"]]["dependencies"] == ["./dist/*.whl"]
        else:
            assert (task["environment_key"], environments) == ("", {})
            assert task["libraries"] == [{"whl": "./dist/*.whl"}]
            assert clusters[task["job_cluster_key"]]["is_single_node"] is True


def test_runtimes_have_the_python_and_the_spark_of_the_lock():
    [environment] = BUNDLE["variables"]["serverless"]["default"]["environments"]
    [cluster] = BUNDLE["variables"]["classic"]["default"]["job_clusters"]
    python, spark = RUNTIMES[environment["spec"]["environment_version"]]
    assert RUNTIMES[cluster["new_cluster"]["spark_version"]] == (python, spark)
    locked = re.search(r"^pyspark==(\d+\.\d+)\.", (ROOT / "requirements.lock").read_text(), re.M)
    assert locked is not None and locked[1] == spark
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"{python}.0" in SpecifierSet(project["requires-python"])
    for kind in ("serverless", "classic"):
        description = BUNDLE["variables"][kind]["description"]
        assert f"Python {python}" in description and f"{spark}." in description


def test_tasks_wait_for_each_other_in_the_order_of_the_data():
    waits = {
        (job["name"], task["task_key"]): [need["task_key"] for need in task.get("depends_on", [])]
        for job, task in tasks(resolved("prod")["jobs"])
    }
    assert waits == {
        ("candlecast train", "ingest"): [],
        ("candlecast train", "preprocess"): ["ingest"],
        ("candlecast train", "train"): ["preprocess"],
        ("candlecast train", "evaluate"): ["train"],
        ("candlecast register", "register"): [],
        ("candlecast forecast", "forecast"): [],
    }


def test_everything_ends_and_only_the_fetching_is_tried_again():
    jobs = resolved("prod", notification_emails=["a", "b"], budget_policy_id="policy")["jobs"]
    for job, task in tasks(jobs):
        assert 0 < task["timeout_seconds"] < job["timeout_seconds"]
        assert task["max_retries"] == (1 if task["task_key"] == "ingest" else 0)
        assert task["retry_on_timeout"] is False
        # Serverless compute tries again by itself unless told not to.
        assert task["disable_auto_optimization"] is True
    for job in jobs.values():
        assert (job["max_concurrent_runs"], job["queue"]) == (1, {"enabled": True})
        assert job["email_notifications"] == {"on_failure": ["a", "b"]}
        assert job["budget_policy_id"] == "policy"
        assert job["tags"] == {"commit": COMMIT, "version": candlecast.__version__}
        assert "permissions" not in job, "who deploys owns it, and nobody else needs it"


def test_job_parameters_are_declared_where_used_and_used_where_declared():
    for name, job in resources()["jobs"].items():
        declared = [parameter["name"] for parameter in job["parameters"]]
        used = set(re.findall(r"\{\{job\.parameters\.(\w+)\}\}", "".join(texts(job["tasks"]))))
        assert sorted(used) == sorted(declared), name
        others = set(re.findall(r"\{\{(?!job\.parameters\.)([^}]*)\}\}", "".join(texts(job))))
        assert others <= {"job.run_id"}, name


def test_tasks_run_the_entry_point_of_this_package():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for _, task in tasks(resources()["jobs"]):
        wheel = task["python_wheel_task"]
        assert importlib.metadata.metadata(wheel["package_name"])["Name"] == "candlecast"
        [entry] = importlib.metadata.entry_points(
            group="console_scripts", name=wheel["entry_point"]
        )
        assert entry.dist is not None and entry.dist.name == wheel["package_name"]
        assert scripts[wheel["entry_point"]] == entry.value == "candlecast.__main__:main"
        assert callable(entry.load())


def test_tags_and_pipelines_of_tasks_are_the_project_s():
    pipelines = register_pipelines()
    chosen = []
    for job, task in tasks(resolved("prod")["jobs"]):
        options = run_command.make_context("run", argv(job, task, {})).params
        if job["name"] == "candlecast train":
            [tag] = options["tags"]
            chosen += [
                node.name for node in pipelines["__default__"].only_nodes_with_tags(tag).nodes
            ]
        else:
            [name] = options["pipelines"]
            assert pipelines[name].nodes
    # The four tasks are the whole of it, and no node runs twice.
    assert sorted(chosen) == sorted(node.name for node in pipelines["__default__"].nodes)


@pytest.mark.parametrize("target", TARGETS)
def test_parameters_of_tasks_are_the_project_s_and_usable(target):
    fields = {field.alias or name for name, field in Parameters.model_fields.items()}
    for job, task in tasks(resolved(target)["jobs"]):
        options = run_command.make_context("run", argv(job, task, {})).params
        given = options["params"]
        assert set(given) <= fields
        assert Path(options["conf_source"]) == ROOT / "conf"
        given |= {"candidate": "gh-12-1"} if "candidate" in given else {}
        check_parameters(configured(options["env"], given))


def configured(env: str, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a run, merged as Kedro merges them."""
    return OmegaConfigLoader(
        str(ROOT / "conf"), env=env, runtime_params=given, **settings.CONFIG_LOADER_ARGS
    )["parameters"]


def test_a_training_run_gets_what_the_release_asks_for():
    job = resolved("prod", catalog="sales")["jobs"]["train"]
    asked = {"candidate": "gh-12-1", "git_commit": COMMIT, "tickers": "AAPL BTC-USD", "end": ""}
    for task in job["tasks"]:
        options = run_command.make_context("run", argv(job, task, asked)).params
        checked = check_parameters(configured(options["env"], options["params"]))
        told = {key: checked[key] for key in options["params"]}
        assert told == {
            "candidate": "gh-12-1",
            "git_commit": COMMIT,
            "tickers": ["AAPL", "BTC-USD"],
            "start": "2015-01-01",
            "end": None,
            "catalog": "sales",
            "schema": "candlecast",
            "volume": "/Volumes/sales/candlecast/files",
            "experiment": "/Users/somebody@example.com/candlecast-prod",
            "registered_model": "sales.candlecast.candlecast",
        }
        assert checked["tables"] == "sales.candlecast."
        assert checked["data_root"] == "/Volumes/sales/candlecast/files"


def test_a_registration_gets_candidate_commit_approver_and_reason():
    job = resolved("prod", catalog="sales")["jobs"]["register"]
    [task] = job["tasks"]
    asked = {"candidate": "gh-12-1", "approver": "ada", "override_reason": "few sessions yet"}
    options = run_command.make_context("run", argv(job, task, asked)).params
    checked = check_parameters(configured(options["env"], options["params"]))
    told = [checked[key] for key in ("candidate", "git_commit", "approver", "override_reason")]
    assert told == ["gh-12-1", COMMIT, "ada", "few sessions yet"]
    assert checked["registered_model"] == "sales.candlecast.candlecast"
    # By hand, without a reason.
    options = run_command.make_context("run", argv(job, task, {"candidate": "x"})).params
    checked = check_parameters(configured(options["env"], options["params"]))
    assert (checked["approver"], checked["override_reason"]) == (None, None)


def test_a_development_copy_s_experiment_has_brackets_and_a_space_in_its_name():
    job = resolved("dev")["jobs"]["train"]
    line = "".join(argv(job, job["tasks"][0], {"candidate": "x"})[-1])
    name = "/Users/somebody@example.com/[dev somebody] candlecast-dev"
    line = line.replace("/Users/somebody@example.com/candlecast-dev", name)
    assert name in line
    options = run_command.make_context("run", ["--params", line]).params
    assert options["params"]["experiment"] == name


# --- Files and the wheel --------------------------------------------------------------------------


def test_the_configuration_of_a_task_is_synced():
    assert BUNDLE["sync"] == {"paths": ["conf"], "exclude": ["conf/local/**"]}
    env = BUNDLE["variables"]["kedro_env"]["default"]
    needed = [ROOT / "conf/logging.yml"]
    needed += [file for name in ("base", env) for file in (ROOT / "conf" / name).glob("*.yml")]
    assert {file.parent.name for file in needed} == {"conf", "base", "databricks"}
    # What git ignores is not synced, also when it is committed.
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *needed],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ignored.returncode, ignored.stdout) == (1, ""), ignored.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the wheel is built of, committed at a moment of 2026."""
    for name in ("src", "scripts"):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", "databricks.yml", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "build/lib/candlecast").mkdir(parents=True)
    (tmp_path / "build/lib/candlecast/removed.py").write_text("left by an earlier build")
    moment = {"GIT_AUTHOR_DATE": "@1790000000 +0000", "GIT_COMMITTER_DATE": "@1790000000 +0000"}
    identity = ["-c", "user.name=a", "-c", "user.email=a"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=tmp_path, env=os.environ | moment, check=True)
    return tmp_path


def built(checkout: Path) -> Path:
    """The wheel that the deployment's own command builds, with the Python of the tests."""
    command = BUNDLE["artifacts"]["default"]["build"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, shell=True, cwd=checkout, env=os.environ | {"PATH": path}, check=True)
    [wheel] = checkout.glob("dist/*.whl")
    return wheel


def test_one_commit_is_one_version_of_the_wheel_and_a_change_another(checkout):
    assert BUNDLE["artifacts"]["default"]["dynamic_version"] is True
    wheel = built(checkout)
    assert wheel.name == f"candlecast-{candlecast.__version__}-py3-none-any.whl"
    assert wheel.stat().st_mtime == 1_790_000_000  # the deployment makes a version of it
    names = zipfile.ZipFile(wheel).namelist()
    assert "candlecast/__main__.py" in names and "candlecast/removed.py" not in names
    assert built(checkout).stat().st_mtime == 1_790_000_000
    (checkout / "src/candlecast/added.py").write_text('"""Not committed yet."""\n')
    before = int(time.time())
    assert built(checkout).stat().st_mtime >= before
