"""The Databricks bundle without a workspace: everything it refers to exists and fits."""

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

import exchange_calendars
import pandas as pd
import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.cli.project import run as run_command
from packaging.specifiers import SpecifierSet

import candlecast
from candlecast import settings
from candlecast.__main__ import read_options
from candlecast.parameters import check_parameters
from candlecast.sources.calendars import next_session
from conftest import ROOT

PARAMETERS = ROOT / "conf/base/parameters.yml"
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
"""Python and Spark of serverless environments and runtimes, from Databricks' release notes."""

REFERENCES = {
    "var.kedro_env": "databricks",
    "var.catalog": "sales",
    "var.git_commit": COMMIT,
    "var.prices": BUNDLE["variables"]["prices"]["default"],
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
"""What the CLI (built from its source) substitutes for references in the target dev."""


def references(value: object) -> set[str]:
    return set(re.findall(r"\$\{([^}]*)\}", json.dumps(value)))


def dynamic_references(value: object) -> set[str]:
    """References that the platform resolves when a run starts."""
    return set(re.findall(r"\{\{([^}]*)\}\}", json.dumps(value)))


def arguments_of(name: str, task: dict[str, Any], **parameters: str) -> list[str]:
    """The command-line arguments of a task, for a run with these job parameters."""
    declared = {parameter["name"]: parameter["default"] for parameter in JOBS[name]["parameters"]}
    assert set(parameters) <= set(declared), "the platform rejects undeclared parameters"
    values = {f"job.parameters.{key}": value for key, value in (declared | parameters).items()}
    values |= {"task.name": task["task_key"], "job.run_id": "7", "job.trigger.type": "periodic"}
    texts = list(task["python_wheel_task"]["parameters"])
    for pattern, known in ((r"\$\{(.*?)\}", REFERENCES), (r"\{\{(.*?)\}\}", values)) * 2:
        texts = [re.sub(pattern, lambda m, known=known: known[m[1]], text) for text in texts]
    return texts


def parameters_of(name: str, task: dict[str, Any], **parameters: str) -> dict[str, Any]:
    """The project's parameters in a task, as its nodes receive them."""
    options = read_options(run_command, arguments_of(name, task, **parameters)).params
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
        # classic is an alternative that the user chooses.
        assert f"${{var.{name}" in everything or name == "classic", f"nothing uses {name}"


def test_every_reference_resolves():
    for reference in references([BUNDLE, RESOURCES]):
        root, *path = reference.split(".")
        if root == "var":
            assert path[0] in BUNDLE["variables"], reference
        elif root == "resources":
            assert path[1] in RESOURCES[path[0]], reference
        else:
            assert root in ("bundle", "workspace"), reference


def test_staging_and_prod_require_a_notification_address():
    required = {name for name, variable in BUNDLE["variables"].items() if "default" not in variable}
    assert required == {"notification_email"}
    values = {name: target.get("variables", {}) for name, target in BUNDLE["targets"].items()}
    assert [name for name in values if required & set(values[name])] == ["dev"]
    assert "type" not in BUNDLE["variables"]["notification_email"]  # --var accepts only text
    for job in JOBS.values():
        assert job["email_notifications"] == {"on_failure": ["${var.notification_email}"]}


def test_targets_have_separate_schemas_and_prod_is_protected():
    targets = BUNDLE["targets"]
    schemas = [BUNDLE["variables"]["schema"]["default"]]
    schemas += [targets[name]["variables"]["schema"] for name in ("staging", "prod")]
    assert len(set(schemas)) == 3
    assert [target["mode"] for target in targets.values()] == [
        "development",
        "production",
        "production",
    ]
    protected = {
        (kind, name)
        for kind, entries in targets["prod"]["resources"].items()
        for name, entry in entries.items()
        if entry["lifecycle"]["prevent_destroy"] is True
    }
    assert protected == {
        (kind, name)
        for kind in ("schemas", "volumes", "registered_models")
        for name in RESOURCES[kind]
    }


def test_the_forecast_is_scheduled_only_in_prod():
    paused = BUNDLE["variables"]["forecast_pause_status"]["default"]
    targets = {name: target.get("variables", {}) for name, target in BUNDLE["targets"].items()}
    statuses = {
        name: values.get("forecast_pause_status", paused) for name, values in targets.items()
    }
    assert statuses == {"dev": "PAUSED", "staging": "PAUSED", "prod": "UNPAUSED"}


def scheduled(first: str, last: str) -> list[pd.Timestamp]:
    """The starts of the forecast job, UTC, from one day to another."""
    schedule = JOBS["forecast"]["schedule"]
    second, minute, hours, *days = schedule["quartz_cron_expression"].split()
    assert (schedule["timezone_id"], days) == ("UTC", ["*", "*", "?"])
    return [
        day.replace(hour=int(hour), minute=int(minute), second=int(second))
        for day in pd.date_range(first, last, tz="UTC")
        for hour in hours.split(",")
    ]


@pytest.mark.parametrize("calendar", ["XNYS", "XLON", "XETR", "XPAR", "XTKS", "24/7"])
def test_every_session_is_forecast_in_time_by_the_schedule(calendar):
    """In a year with its holidays, half days and clocks put forward and back.

    A run starts half an hour after the last close (of a market that never closes: five minutes) or
    later, and has at least a quarter of an hour until its forecasts would be late.
    """
    monitoring = yaml.safe_load(PARAMETERS.read_text())["monitoring"]
    rested = calendar != "24/7"
    grace = pd.Timedelta(minutes=0 if rested else monitoring["grace_minutes"])
    ready = pd.Timedelta(minutes=30 if rested else 5)
    held = exchange_calendars.get_calendar(calendar, start="2024-01-02", end="2024-12-31")
    starts = pd.DatetimeIndex(scheduled("2024-01-01", "2024-12-31"))
    runs = starts[starts.searchsorted(held.closes[:-1] + ready)]
    assert (runs + pd.Timedelta(minutes=15) < held.opens[1:] + grace).all()
    days = [day.date() for day in held.sessions]
    assert [next_session("any", day, calendar) for day in days[:-1]] == days[1:]


def test_the_version_is_that_of_the_package():
    assert BUNDLE["variables"]["version"]["default"] == candlecast.__version__


def test_no_address_person_or_secret_is_committed():
    for file in [*FILES, *(ROOT / ".github/workflows").glob("*.yml")]:
        text = file.read_text()
        for bad in [r"https?://", r"\w@\w+\.\w", r"\bdapi", r"(?<![-\w])(host|token|user_name):"]:
            found = re.search(bad, text)
            assert not found, f"{file.name} contains {found[0] if found else ''}"


# --- Who may do what ------------------------------------------------------------------------------


def test_readers_may_view_everything_and_runners_may_run_but_not_register():
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
    # The CLI leaves out permissions without a group name, but rejects grants without a principal.
    defaults = {name: BUNDLE["variables"][name]["default"] for name in ("readers", "runners")}
    assert set(defaults.values()) == {""}
    assert BUNDLE["variables"]["data_readers"]["default"] == "${workspace.current_user.userName}"


def test_no_job_is_created_if_another_deployment_owns_the_schema():
    # The CLI creates what a job refers to before the job, and fails if the schema exists already.
    for name, job in JOBS.items():
        required = references(job)
        if "var.deployment" in required:
            required |= references(BUNDLE["variables"]["deployment"])
        assert "resources.schemas.tables.name" in required, name


# --- Jobs and tasks -------------------------------------------------------------------------------


def test_every_task_runs_on_the_chosen_compute():
    serverless = BUNDLE["variables"]["serverless"]["default"]
    classic = BUNDLE["variables"]["classic"]["default"]
    assert set(serverless) == set(classic)
    # A wheel task on serverless compute allows neither libraries nor a cluster.
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
        needs_compute = {"python_wheel_task", "notebook_task"} & set(task)
        assert references(task.get("job_cluster_key")) == (
            {"var.compute.job_cluster_key"} if needs_compute else set()
        ), (name, task["task_key"])
    for _, task in WHEELS:
        assert references(task["environment_key"]) == {"var.compute.environment_key"}
        assert references(task["libraries"]) == {"var.compute.libraries"}
    for job in JOBS.values():
        assert references(job["environments"]) == {"var.compute.environments"}
        assert references(job["job_clusters"]) == {"var.compute.job_clusters"}


def test_runtimes_have_the_locked_spark_and_a_supported_python():
    [environment] = BUNDLE["variables"]["serverless"]["default"]["environments"]
    [cluster] = BUNDLE["variables"]["classic"]["default"]["job_clusters"]
    python, spark = RUNTIMES[environment["spec"]["environment_version"]]
    assert RUNTIMES[cluster["new_cluster"]["spark_version"]] == (python, spark)
    locked = re.search(r"^pyspark==(\d+\.\d+)\.", (ROOT / "requirements.lock").read_text(), re.M)
    assert locked is not None and locked[1] == spark
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"{python}.0" in SpecifierSet(project["requires-python"])


@pytest.mark.parametrize("name", JOBS)
def test_each_task_depends_on_the_one_before(name):
    tasks = JOBS[name]["tasks"]
    keys = [task["task_key"] for task in tasks]
    needs = [[need["task_key"] for need in task.get("depends_on", [])] for task in tasks]
    assert needs == [[], *([key] for key in keys[:-1])]


def test_the_training_tasks_follow_the_data(pipelines):
    pipeline = pipelines["__default__"]
    written: set[str] = set()
    for task in JOBS["train"]["tasks"]:
        stage = pipeline.only_nodes_with_tags(task["task_key"])
        assert stage.inputs() & pipeline.all_outputs() <= written, task["task_key"]
        written |= stage.all_outputs()


def test_every_task_has_a_timeout_and_only_fetching_is_retried():
    for name, task in WHEELS:
        assert 0 < task["timeout_seconds"] < JOBS[name]["timeout_seconds"]
        assert task["max_retries"] == (1 if task["task_key"] in ("ingest", "forecast") else 0)
        assert task["retry_on_timeout"] is False
    for _, task in TASKS:
        if "notebook_task" in task or "python_wheel_task" in task:
            # Serverless compute retries on its own unless this is set.
            assert task["disable_auto_optimization"] is True
            assert task["timeout_seconds"] > 0
    for job in JOBS.values():
        assert (job["max_concurrent_runs"], job["queue"]) == (1, {"enabled": True})
        assert references(job["tags"]) == {"var.git_commit", "var.version"}


def test_each_job_declares_exactly_the_parameters_that_it_uses():
    for name, job in JOBS.items():
        declared = {f"job.parameters.{parameter['name']}" for parameter in job["parameters"]}
        used = dynamic_references(job["tasks"])
        assert {reference for reference in used if "parameters" in reference} == declared, name
        known = {"task.name", "job.trigger.type", "tasks.advice.values.retrain"}
        assert used - declared <= known, name


def test_tasks_run_this_package_s_entry_point():
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


def test_tasks_select_existing_tags_and_pipelines(pipelines):
    selected = []
    for name, task in WHEELS:
        options = read_options(run_command, arguments_of(name, task)).params
        if name == "train":
            selected += pipelines["__default__"].only_nodes_with_tags(*options["tags"]).nodes
        else:
            [pipeline] = options["pipelines"]
            assert pipelines[pipeline].nodes
    # Together the four training tasks run every node exactly once.
    assert sorted(selected) == sorted(pipelines["__default__"].nodes)


def test_training_tasks_receive_the_job_s_parameters_and_the_deployment():
    given = {"candidate": "0123", "git_commit": COMMIT, "tickers": "AAPL BTC-USD", "end": ""}
    for task in JOBS["train"]["tasks"]:
        parameters = parameters_of("train", task, **given)
        assert (parameters["candidate"], parameters["git_commit"]) == ("0123", COMMIT)
        assert parameters["tickers"] == ["AAPL", "BTC-USD"]
        assert (parameters["start"], parameters["end"]) == ("2015-01-01", None)
        assert parameters["tables"] == "sales.dev_ada_candlecast_dev."
        for name, reference in {
            "data_root": "resources.volumes.files.volume_path",
            "experiment": "resources.experiments.runs.name",
            "registered_model": "resources.registered_models.model.id",
        }.items():
            assert parameters[name] == REFERENCES[reference]


REASON = "Worth it, says Ada: gate {too} strict = 'yes', \"no\"; #1"


def test_a_registration_receives_candidate_commit_approver_and_the_whole_reason():
    [task] = JOBS["register"]["tasks"]
    given = {"candidate": "gh-12-1", "approver": "Ada, Bob", "override_reason": REASON}
    parameters = parameters_of("register", task, **given)
    assert {name: parameters[name] for name in given} == given
    assert parameters["git_commit"] == COMMIT
    # Run by hand, without a reason.
    parameters = parameters_of("register", task, candidate="x")
    assert (parameters["approver"], parameters["override_reason"]) == (None, None)


def test_prices_can_come_from_a_table_with_all_its_tickers():
    tasks = [(name, task) for name, task in WHEELS if name != "register"]
    for name, task in tasks:
        assert parameters_of(name, task)["prices"] == "yahoo"
        parameters = parameters_of(name, task, prices="main.fx.daily", tickers="")
        assert (parameters["prices"], parameters["tickers"]) == ("main.fx.daily", [])


def test_a_forecast_receives_valid_parameters():
    [task] = [task for name, task in WHEELS if name == "forecast"]
    parameters = parameters_of("forecast", task)
    assert parameters["tables"] == "sales.dev_ada_candlecast_dev."
    assert parameters["trigger"] == "periodic"


# --- Retraining -----------------------------------------------------------------------------------


class DbUtils:
    """The two utilities that the notebook uses, as strict as on the platform."""

    def __init__(self, **widgets: str) -> None:
        self.set_values: dict[str, object] = {}
        self.widgets = self.jobs = self.taskValues = self
        self._widgets = widgets

    def get(self, name: str) -> str:
        """Return a parameter of the task."""
        if name not in self._widgets:
            raise ValueError(f"InputWidgetNotDefined: {name}")
        return self._widgets[name]

    def set(self, *, key: str, value: object) -> None:
        """Set a task value."""
        if not isinstance(key, str) or len(json.dumps(value)) > 48 * 1024:
            raise ValueError("a key is text, and a value has at most 48 KiB as JSON")
        self.set_values[key] = value


@pytest.mark.parametrize(
    ("advised", "value"),
    [(True, True), (False, False), (None, False), ("no champion yet, no file", False)],
)
def test_the_notebook_sets_the_value_that_the_condition_reads(tmp_path, advised, value):
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
    assert dynamic_references(reader) == {f"tasks.{task['task_key']}.values.{key}"}
    assert reader["condition_task"]["right"] == json.dumps(True)


def test_a_forecast_may_start_training_if_allowed_but_never_a_registration():
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


def test_the_tasks_configuration_is_synced():
    assert BUNDLE["sync"]["paths"] == ["conf"]
    for file in BUNDLE["sync"]["include"]:
        assert (ROOT / file).is_file()
    env = BUNDLE["variables"]["kedro_env"]["default"]
    required = [ROOT / "conf/logging.yml"]
    required += [file for name in ("base", env) for file in (ROOT / "conf" / name).glob("*.yml")]
    assert {file.parent.name for file in required} == {"conf", "base", "databricks"}
    # Files that git ignores are not synced, even if they are committed.
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *required],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ignored.returncode, ignored.stdout) == (1, ""), ignored.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the wheel is built from, committed at a fixed time."""
    for name in ("src", "scripts"):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", "databricks.yml", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "build/lib/candlecast").mkdir(parents=True)
    (tmp_path / "build/lib/candlecast/removed.py").write_text("left over from an earlier build")
    dates = {"GIT_AUTHOR_DATE": "@1790000000 +0000", "GIT_COMMITTER_DATE": "@1790000000 +0000"}
    identity = ["-c", "user.name=a", "-c", "user.email=a"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=tmp_path, env=os.environ | dates, check=True)
    return tmp_path


def build_wheel(checkout: Path) -> Path:
    """Run the bundle's build command with the tests' Python; return the wheel."""
    command = BUNDLE["artifacts"]["default"]["build"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, shell=True, cwd=checkout, env=os.environ | {"PATH": path}, check=True)
    [wheel] = checkout.glob("dist/*.whl")
    return wheel


def test_a_commit_builds_one_wheel_version_and_a_change_another(checkout):
    assert BUNDLE["artifacts"]["default"]["dynamic_version"] is True
    wheel = build_wheel(checkout)
    assert wheel.name == f"candlecast-{candlecast.__version__}-py3-none-any.whl"
    assert wheel.stat().st_mtime == 1_790_000_000  # the deployment's version
    names = zipfile.ZipFile(wheel).namelist()
    assert "candlecast/__main__.py" in names and "candlecast/removed.py" not in names
    assert build_wheel(checkout).stat().st_mtime == 1_790_000_000
    (checkout / "src/candlecast/added.py").write_text('"""Not committed yet."""\n')
    before = int(time.time())
    assert build_wheel(checkout).stat().st_mtime >= before
