"""The Databricks bundle, without a workspace: whatever it names exists where it points."""

import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.cli.project import run as run_command
from packaging.specifiers import SpecifierSet

import candlecast
from candlecast import settings
from candlecast.__main__ import read_options
from candlecast.parameters import check_parameters
from candlecast.pipeline_registry import register_pipelines
from conftest import ROOT

BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text())
FILES = [ROOT / "databricks.yml", *sorted((ROOT / "resources").glob("*.yml"))]
RESOURCES: dict[str, Any] = {}
for file in FILES[1:]:
    for kind, entries in yaml.safe_load(file.read_text())["resources"].items():
        RESOURCES.setdefault(kind, {}).update(entries)
JOBS = RESOURCES["jobs"]
TASKS = [(name, task) for name, job in JOBS.items() for task in job["tasks"]]
WHEELS = [(name, task) for name, task in TASKS if "python_wheel_task" in task]
COMMIT = "0f" * 20
RUNTIMES = {"5": ("3.12", "4.1"), "18.x-scala2.13": ("3.12", "4.1")}
"""Python and Spark of serverless environments and runtimes, from the platform's release notes."""

ANSWERS = {
    "var.kedro_env": "databricks",
    "var.catalog": "sales",
    "var.git_commit": COMMIT,
    "var.tickers": BUNDLE["variables"]["tickers"]["default"],
    "var.start": BUNDLE["variables"]["start"]["default"],
    "var.end": BUNDLE["variables"]["end"]["default"],
    "var.deployment": BUNDLE["variables"]["deployment"]["default"],
    "workspace.file_path": str(ROOT),
    "resources.schemas.tables.name": "dev_ada_candlecast_dev",
    "resources.volumes.files.volume_path": "/Volumes/sales/dev_ada_candlecast_dev/files",
    "resources.experiments.runs.name": "/Users/ada@example.com/[dev ada] candlecast-dev",
    "resources.registered_models.model.id": "sales.dev_ada_candlecast_dev.dev_ada_candlecast",
}
"""What the command line tool (built from its source) put for the references of the target dev."""


def references(value: object) -> set[str]:
    return set(re.findall(r"\$\{([^}]*)\}", json.dumps(value)))


def dynamic(value: object) -> set[str]:
    """What the platform replaces when a run starts."""
    return set(re.findall(r"\{\{([^}]*)\}\}", json.dumps(value)))


def argv(name: str, task: dict[str, Any], **given: str) -> list[str]:
    """What the task's process is called with."""
    declared = {parameter["name"]: parameter["default"] for parameter in JOBS[name]["parameters"]}
    assert set(given) <= set(declared), "a run with an undeclared parameter is refused"
    values = {f"job.parameters.{key}": value for key, value in (declared | given).items()}
    values |= {"task.name": task["task_key"], "job.run_id": "7", "job.trigger.type": "periodic"}
    text = list(task["python_wheel_task"]["parameters"])
    for pattern, known in ((r"\$\{(.*?)\}", ANSWERS), (r"\{\{(.*?)\}\}", values)) * 2:
        text = [re.sub(pattern, lambda found, known=known: known[found[1]], item) for item in text]
    return text


def checked(name: str, task: dict[str, Any], **given: str) -> dict[str, Any]:
    """The parameters of a task's run, as its nodes get them."""
    options = read_options(run_command, argv(name, task, **given)).params
    assert Path(options["conf_source"]) == ROOT / "conf"
    loader = OmegaConfigLoader(
        str(ROOT / "conf"),
        env=options["env"],
        runtime_params=options["params"],
        **settings.CONFIG_LOADER_ARGS,
    )
    return check_parameters(loader["parameters"])


# --- Variables and targets ------------------------------------------------------------------------


def test_every_variable_is_described_and_used():
    everything = "".join(file.read_text() for file in FILES)
    for name, variable in BUNDLE["variables"].items():
        assert variable["description"].endswith("."), f"{name} is not described"
        # The alternative of the compute is used when somebody says so.
        assert f"${{var.{name}" in everything or name == "classic", f"nothing uses {name}"


def test_every_reference_points_somewhere():
    for reference in references([BUNDLE, RESOURCES]):
        root, *path = reference.split(".")
        if root == "var":
            assert path[0] in BUNDLE["variables"], reference
        elif root == "resources":
            assert path[1] in RESOURCES[path[0]], reference
        else:
            assert root in ("bundle", "workspace"), reference


def test_staging_and_prod_demand_who_is_told_of_a_failure():
    demanded = {name for name, variable in BUNDLE["variables"].items() if "default" not in variable}
    assert demanded == {"notification_email"}
    given = {name: target.get("variables", {}) for name, target in BUNDLE["targets"].items()}
    assert [name for name, values in given.items() if demanded & set(values)] == ["dev"]
    assert "type" not in BUNDLE["variables"]["notification_email"]  # --var takes texts only
    for job in JOBS.values():
        assert job["email_notifications"] == {"on_failure": ["${var.notification_email}"]}


def test_targets_have_data_of_their_own_and_prod_s_is_kept():
    targets = BUNDLE["targets"]
    schemas = [BUNDLE["variables"]["schema"]["default"]]
    schemas += [targets[name]["variables"]["schema"] for name in ("staging", "prod")]
    assert len(set(schemas)) == 3
    assert [target["mode"] for target in targets.values()] == [
        "development",
        "production",
        "production",
    ]
    kept = {
        (kind, name)
        for kind, entries in targets["prod"]["resources"].items()
        for name, entry in entries.items()
        if entry["lifecycle"]["prevent_destroy"] is True
    }
    assert kept == {
        (kind, name)
        for kind in ("schemas", "volumes", "registered_models")
        for name in RESOURCES[kind]
    }


def test_the_forecast_runs_by_itself_in_prod_only_and_after_the_close_in_new_york():
    paused = BUNDLE["variables"]["forecast_pause_status"]["default"]
    targets = {name: target.get("variables", {}) for name, target in BUNDLE["targets"].items()}
    statuses = {
        name: values.get("forecast_pause_status", paused) for name, values in targets.items()
    }
    assert statuses == {"dev": "PAUSED", "staging": "PAUSED", "prod": "UNPAUSED"}
    schedule = JOBS["forecast"]["schedule"]
    second, minute, hour, _, _, days = schedule["quartz_cron_expression"].split()
    assert (schedule["timezone_id"], days) == ("America/New_York", "MON-FRI")
    assert int(hour) * 3600 + int(minute) * 60 + int(second) > 16 * 3600


def test_the_version_is_the_package_s():
    assert BUNDLE["variables"]["version"]["default"] == candlecast.__version__


def test_no_address_no_person_no_secret():
    for file in [*FILES, *(ROOT / ".github/workflows").glob("*.yml")]:
        text = file.read_text()
        for wrong in [r"https?://", r"\w@\w+\.\w", r"\bdapi", r"(?<![-\w])(host|token|user_name):"]:
            found = re.search(wrong, text)
            assert not found, f"{file.name} holds {found[0] if found else ''}"


# --- Who may do what ------------------------------------------------------------------------------


def test_readers_may_look_at_everything_and_runners_may_run_but_not_register():
    level = {
        name: {entry["group_name"]: entry["level"] for entry in job["permissions"]}
        for name, job in JOBS.items()
    }
    assert {entry["${var.readers}"] for entry in level.values()} == {"CAN_VIEW"}
    runners = {name: entry["${var.runners}"] for name, entry in level.items()}
    assert runners == {
        "train": "CAN_MANAGE_RUN",
        "register": "CAN_VIEW",
        "forecast": "CAN_MANAGE_RUN",
    }
    experiment = RESOURCES["experiments"]["runs"]["permissions"]
    assert {entry["group_name"]: entry["level"] for entry in experiment} == {
        "${var.readers}": "CAN_READ",
        "${var.runners}": "CAN_READ",
    }
    [grant] = RESOURCES["schemas"]["tables"]["grants"]
    assert set(grant["privileges"]) == {"USE_SCHEMA", "SELECT", "READ_VOLUME", "EXECUTE"}
    # The tool leaves out an entry of permissions without a name, and refuses such a grant.
    defaults = {name: BUNDLE["variables"][name]["default"] for name in ("readers", "runners")}
    assert set(defaults.values()) == {""}
    assert BUNDLE["variables"]["data_readers"]["default"] == "${workspace.current_user.userName}"


def test_no_job_is_made_where_another_deployment_has_the_schema():
    # What a job refers to is made before it, and a schema that is there already is refused.
    for name, job in JOBS.items():
        needed = references(job)
        if "var.deployment" in needed:
            needed |= references(BUNDLE["variables"]["deployment"])
        assert "resources.schemas.tables.name" in needed, name


# --- Jobs and tasks -------------------------------------------------------------------------------


def test_every_task_has_the_compute_that_it_names():
    serverless = BUNDLE["variables"]["serverless"]["default"]
    classic = BUNDLE["variables"]["classic"]["default"]
    assert set(serverless) == set(classic)
    # A wheel task on serverless compute takes neither libraries nor a cluster.
    [environment] = serverless["environments"]
    assert serverless["environment_key"] == environment["environment_key"]
    assert environment["spec"]["dependencies"] == ["./dist/*.whl"]
    assert (serverless["job_cluster_key"], serverless["libraries"], serverless["job_clusters"]) == (
        "",
        [],
        [],
    )
    [cluster] = classic["job_clusters"]
    assert classic["job_cluster_key"] == cluster["job_cluster_key"]
    assert (classic["environment_key"], classic["environments"]) == ("", [])
    assert classic["libraries"] == [{"whl": "./dist/*.whl"}]
    for name, task in TASKS:
        computed = {"python_wheel_task", "notebook_task"} & set(task)
        assert references(task.get("job_cluster_key")) == (
            {"var.compute.job_cluster_key"} if computed else set()
        ), (name, task["task_key"])
    for _, task in WHEELS:
        assert references(task["environment_key"]) == {"var.compute.environment_key"}
        assert references(task["libraries"]) == {"var.compute.libraries"}
    for job in JOBS.values():
        assert references(job["environments"]) == {"var.compute.environments"}
        assert references(job["job_clusters"]) == {"var.compute.job_clusters"}


def test_runtimes_have_the_python_and_the_spark_of_the_lock():
    [environment] = BUNDLE["variables"]["serverless"]["default"]["environments"]
    [cluster] = BUNDLE["variables"]["classic"]["default"]["job_clusters"]
    python, spark = RUNTIMES[environment["spec"]["environment_version"]]
    assert RUNTIMES[cluster["new_cluster"]["spark_version"]] == (python, spark)
    locked = re.search(r"^pyspark==(\d+\.\d+)\.", (ROOT / "requirements.lock").read_text(), re.M)
    assert locked is not None and locked[1] == spark
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"{python}.0" in SpecifierSet(project["requires-python"])


def test_tasks_wait_for_each_other_in_the_order_of_the_data():
    waits = {
        (name, task["task_key"]): [need["task_key"] for need in task.get("depends_on", [])]
        for name, task in TASKS
    }
    assert waits == {
        ("train", "ingest"): [],
        ("train", "preprocess"): ["ingest"],
        ("train", "train"): ["preprocess"],
        ("train", "evaluate"): ["train"],
        ("register", "register"): [],
        ("forecast", "forecast"): [],
        ("forecast", "retrain_allowed"): ["forecast"],
        ("forecast", "advice"): ["retrain_allowed"],
        ("forecast", "retrain_advised"): ["advice"],
        ("forecast", "retrain"): ["retrain_advised"],
    }


def test_everything_ends_and_only_what_fetches_is_retried():
    for name, task in WHEELS:
        assert 0 < task["timeout_seconds"] < JOBS[name]["timeout_seconds"]
        assert task["max_retries"] == (1 if task["task_key"] in ("ingest", "forecast") else 0)
        assert task["retry_on_timeout"] is False
    for _, task in TASKS:
        if "notebook_task" in task or "python_wheel_task" in task:
            # Serverless compute retries by itself unless told not to.
            assert task["disable_auto_optimization"] is True
            assert task["timeout_seconds"] > 0
    for job in JOBS.values():
        assert (job["max_concurrent_runs"], job["queue"]) == (1, {"enabled": True})
        assert references(job["tags"]) == {"var.git_commit", "var.version"}


def test_job_parameters_are_declared_where_used_and_used_where_declared():
    for name, job in JOBS.items():
        declared = {f"job.parameters.{parameter['name']}" for parameter in job["parameters"]}
        used = dynamic(job["tasks"])
        assert {reference for reference in used if "parameters" in reference} == declared, name
        known = {"task.name", "job.trigger.type", "tasks.advice.values.retrain"}
        assert used - declared <= known, name


def test_tasks_run_the_entry_point_of_this_package():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for _, task in WHEELS:
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
    for name, task in WHEELS:
        options = read_options(run_command, argv(name, task)).params
        if name == "train":
            chosen += pipelines["__default__"].only_nodes_with_tags(*options["tags"]).nodes
        else:
            [pipeline] = options["pipelines"]
            assert pipelines[pipeline].nodes
    # The four tasks are the whole of it, and no node runs twice.
    assert sorted(chosen) == sorted(pipelines["__default__"].nodes)


def test_a_training_run_gets_what_the_release_requests():
    requested = {"candidate": "0123", "git_commit": COMMIT, "tickers": "AAPL BTC-USD", "end": ""}
    for task in JOBS["train"]["tasks"]:
        got = checked("train", task, **requested)
        assert (got["candidate"], got["git_commit"]) == ("0123", COMMIT)
        assert got["tickers"] == ["AAPL", "BTC-USD"]
        assert (got["start"], got["end"]) == ("2015-01-01", None)
        assert got["tables"] == "sales.dev_ada_candlecast_dev."
        assert got["data_root"] == ANSWERS["resources.volumes.files.volume_path"]
        assert got["experiment"] == ANSWERS["resources.experiments.runs.name"]
        assert got["registered_model"] == ANSWERS["resources.registered_models.model.id"]


REASON = "Worth it, says Ada: gate {too} strict = 'yes', \"no\"; #1"


def test_a_registration_gets_candidate_commit_approver_and_the_whole_reason():
    [task] = JOBS["register"]["tasks"]
    got = checked(
        "register", task, candidate="gh-12-1", approver="Ada, Bob", override_reason=REASON
    )
    told = [got[key] for key in ("candidate", "git_commit", "approver", "override_reason")]
    assert told == ["gh-12-1", COMMIT, "Ada, Bob", REASON]
    # By hand, without a reason.
    got = checked("register", task, candidate="x")
    assert (got["approver"], got["override_reason"]) == (None, None)


def test_a_forecast_gets_usable_parameters():
    [task] = [task for name, task in WHEELS if name == "forecast"]
    assert checked("forecast", task)["tables"] == "sales.dev_ada_candlecast_dev."


# --- Retraining -----------------------------------------------------------------------------------


class DbUtils:
    """The two utilities that a notebook task has, as strict as the platform is."""

    def __init__(self, **widgets: str) -> None:
        self.set_values: dict[str, object] = {}
        self.widgets = self.jobs = self.taskValues = self
        self._widgets = widgets

    def get(self, name: str) -> str:
        """Answer with a parameter of the task."""
        if name not in self._widgets:
            raise ValueError(f"InputWidgetNotDefined: {name}")
        return self._widgets[name]

    def set(self, *, key: str, value: object) -> None:
        """Set a task value."""
        if not isinstance(key, str) or len(json.dumps(value)) > 48 * 1024:
            raise ValueError("a key is a text, and a value's JSON has 48 KiB at most")
        self.set_values[key] = value


@pytest.mark.parametrize(
    ("advised", "value"),
    [(True, True), (False, False), (None, False), ("no champion yet, so no file", False)],
)
def test_the_advice_of_the_track_record_becomes_what_the_condition_reads(tmp_path, advised, value):
    [task] = [task for _, task in TASKS if "notebook_task" in task]
    [widget] = task["notebook_task"]["base_parameters"]
    record = {"reasons": [{"code": "too_few_outcomes", "sessions": 1}], "retrain": advised}
    file = tmp_path / "track_record.json"
    if not isinstance(advised, str):
        file.write_text(json.dumps(record))
    dbutils = DbUtils(**{widget: str(file)})
    notebook = ROOT / "resources" / task["notebook_task"]["notebook_path"]
    assert notebook.read_text().startswith("# Databricks notebook source\n")
    runpy.run_path(str(notebook), {"dbutils": dbutils})
    [(key, set_value)] = dbutils.set_values.items()
    assert set_value is value
    [reader] = [task for _, task in TASKS if task["task_key"] == "retrain_advised"]
    assert dynamic(reader) == {f"tasks.{task['task_key']}.values.{key}"}
    assert reader["condition_task"]["right"] == json.dumps(True)


def test_a_forecast_starts_a_training_only_where_that_is_allowed_and_never_a_registration():
    assert BUNDLE["variables"]["retrain_automatically"]["default"] == "false"
    by_key = {task["task_key"]: task for name, task in TASKS if name == "forecast"}
    allowed = by_key["retrain_allowed"]["condition_task"]
    assert (allowed["left"], allowed["right"]) == ("${var.retrain_automatically}", "true")
    for key in ("advice", "retrain"):
        assert by_key[key]["depends_on"][0]["outcome"] == "true"
    started = [task["run_job_task"]["job_id"] for _, task in TASKS if "run_job_task" in task]
    assert started == ["${resources.jobs.train.id}"]
    longest = 2 * by_key["forecast"]["timeout_seconds"] + by_key["advice"]["timeout_seconds"]
    assert JOBS["forecast"]["timeout_seconds"] >= longest + JOBS["train"]["timeout_seconds"]


# --- Files and the wheel --------------------------------------------------------------------------


def test_the_configuration_of_a_task_is_synced():
    assert BUNDLE["sync"]["paths"] == ["conf"]
    for file in BUNDLE["sync"]["include"]:
        assert (ROOT / file).is_file()
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
