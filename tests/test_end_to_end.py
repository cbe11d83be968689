"""The default pipeline on the committed sample: by the real command, and in this process."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import candlecast
from candlecast.models.forests import features
from conftest import ROOT, SMALL, copy_project, kedro

FILES = tuple(f"reporting/{name}.json" for name in ("metrics", "importance", "gate"))
FILES += ("training/model_selection.json",)
TABLES = ["prices", "quality", "test", "test_scores", "train", "windows"]


def files(folder):
    """Return the paths of all files in a folder, relative to it."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A newcomer's `kedro run` in a fresh copy of the project, without a home folder."""
    base = tmp_path_factory.mktemp("newcomer")
    project = copy_project(base / "my candlecast")
    (base / "no-home").write_text("a file where a folder would be")
    before = files(project)
    home = {"HOME": str(base / "no-home" / "me"), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    done = kedro(project, "run", env={**os.environ, **home})
    return project, done, before


@pytest.fixture(scope="module")
def tracked(first_run):
    """The MLflow run of the first run, from its own store."""
    mlflow.set_tracking_uri(f"sqlite:///{first_run[0] / 'data/mlflow/mlflow.db'}")
    [run] = MlflowClient().search_runs(["1"])
    return run


def table(spark, data_root, name, version=None):
    reader = spark.read.format("delta")
    if version is not None:
        reader = reader.option("versionAsOf", str(version))
    frame = reader.load(f"{data_root}/tables/{name}").toPandas()
    keys = [key for key in ("ticker", "session", "rule") if key in frame]
    return frame.sort_values(keys, ignore_index=True)


def commit():
    """The commit of this checkout, if it is one."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def test_it_succeeds_and_logs_the_path_of_the_report(first_run):
    project, done, _ = first_run
    assert done.returncode == 0, done.stderr
    report = project / "data/reporting/report.html"
    assert done.stderr.splitlines()[-1].endswith(f"INFO    report: {report}")
    assert report.read_text().startswith("<!doctype html>")


def test_its_log_has_only_its_own_lines(first_run, pipelines):
    lines = first_run[1].stderr.splitlines()
    assert all("  INFO    " in line for line in lines), first_run[1].stderr
    assert first_run[1].stdout == ""
    node_lines = [line.split("INFO    ")[1] for line in lines if " s  " in line]
    assert len(node_lines) == len(pipelines["__default__"].nodes)
    assert next(line for line in node_lines if line.startswith("split_by_date")).endswith(
        "windows v0 (12,084 rows) -> train v0 (9,238 rows), test v0 (2,790 rows)"
    )


def test_fault_27_it_writes_below_its_data_root_only(first_run):
    project, _, before = first_run
    written = files(project) - before
    assert written
    elsewhere = {
        name for name in written if not name.startswith("data/") and "__pycache__" not in name
    }
    # For kedro-viz's graph; .gitignore has this folder.
    assert elsewhere == {".viz/kedro_pipeline_events.json", ".viz/stats.json"}
    assert before <= files(project)


def test_its_mlflow_run_holds_everything(first_run, tracked):
    project = first_run[0]
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == tracked.data.tags["candidate"]
    parameters = tracked.data.params
    assert parameters["window"] == "14"
    assert parameters["estimators"] == "forest_50 forest_100 forest_200 forest_500 forest_1000"
    metrics = json.loads((project / "data/reporting/metrics.json").read_text())
    [chosen] = [
        row
        for row in json.loads((project / "data/training/model_selection.json").read_text())
        if row["chosen"]
    ]
    importance = json.loads((project / "data/reporting/importance.json").read_text())
    compared = tracked.data.metrics
    for row in importance:
        assert compared.pop(f"importance.{row['feature']}") == row["log_loss_increase"]
    assert len({row["feature"] for row in importance}) == 14
    assert 35 <= len(compared) <= 50
    assert compared.pop("gate.passed") == 0
    for name in ("log_loss", "log_loss_se", "accuracy", "roc_auc"):
        assert compared.pop(f"validation.{name}") == chosen[name]
    assert compared.items() <= metrics.items()
    assert {"accuracy.low", "roc_auc.high", "log_loss", "best_baseline.accuracy"} <= compared.keys()
    tags = tracked.data.tags
    assert {name: tags[f"version.{name}"] for name in TABLES} == dict.fromkeys(TABLES, "0")
    assert (tags["gate"], tags["chosen estimator"]) == ("not passed", chosen["estimator"])
    assert tags["mlflow.note.content"] == (project / "data/reporting/summary.md").read_text()
    inputs = {
        each.tags[0].value: (each.dataset.name, json.loads(each.dataset.source)["path"])
        for each in tracked.inputs.dataset_inputs
    }
    assert inputs == {
        "training": ("train@v0", str(project / "data/tables/train")),
        "testing": ("test@v0", str(project / "data/tables/test")),
    }
    experiment = MlflowClient().get_experiment(tracked.info.experiment_id)
    assert experiment.tags == {"mlflow.experimentKind": "custom_model_development"}
    assert tags["kedro_command"] == "kedro run"
    assert "runner" not in tags
    assert tags["candlecast"] == candlecast.__version__
    assert json.loads(tags["packages"])["scikit-learn"] == "1.9.1"
    assert (tags["git_commit"], tags["git_dirty"]) == ("unknown", "unknown")  # no repository
    artifacts = {file.path for file in MlflowClient().list_artifacts(tracked.info.run_id)}
    assert {"report.html", "model_card.md", "metrics.json", "importance.json"} <= artifacts


def test_readme_shows_its_numbers(first_run):
    """To the last digit that is shown; another numpy may round it differently."""
    metrics = json.loads((first_run[0] / "data/reporting/metrics.json").read_text())
    names = ["accuracy", "roc_auc", "log_loss"]
    with_ends = [part + end for part in names for end in ("", ".low", ".high")]
    difference = [f"accuracy_minus_best_baseline{end}" for end in ("", ".low", ".high")]
    wanted = {
        "**model**": with_ends,
        "best constant": [f"majority.{name}" for name in names[:2]],
        "previous session": [f"previous_day.{name}" for name in names[:2]],
        "training base rate": [f"base_rate.{name}" for name in names],
        "logistic regression": [f"logistic.{name}" for name in names],
        "model minus": difference,
    }
    readme = (ROOT / "README.md").read_text()
    for start, keys in wanted.items():
        [row] = re.findall(rf"^\| {re.escape(start)}[^|]*\|(.*)$", readme, re.MULTILINE)
        shown = [float(number) for number in re.findall(r"[-+]?\d\.\d+", row)]
        np.testing.assert_allclose(shown, [metrics[key] for key in keys], rtol=0, atol=0.001)
    assert metrics["best_baseline.accuracy"] == metrics["previous_day.accuracy"]
    assert metrics["sessions"] == 652


def test_its_model_loads_by_its_address_and_gives_the_reported_probabilities(
    first_run, tracked, spark
):
    [logged] = mlflow.search_logged_models(
        experiment_ids=["1"],
        filter_string=f"source_run_id='{tracked.info.run_id}'",
        output_format="list",
    )
    assert logged.name == tracked.data.tags["candidate"]
    of_test = {each.key: each.value for each in logged.metrics if each.dataset_name == "test@v0"}
    assert of_test["log_loss"] == tracked.data.metrics["log_loss"]
    assert {"accuracy", "roc_auc"} <= of_test.keys()
    model = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    assert [column.name for column in model.metadata.signature.inputs] == [
        f"lag_{lag:02d}" for lag in range(1, 15)
    ]
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{logged.model_id}"))
    assert len(model.metadata.load_input_example(folder)) == 5
    requirements = (folder / "requirements.txt").read_text()
    assert "scikit-learn==1.9.1" in requirements
    assert all("==" in line for line in requirements.split())
    data_root = first_run[0] / "data"
    test = table(spark, data_root, "test")
    scores = table(spark, data_root, "test_scores")
    np.testing.assert_array_equal(model.predict(features(test))[:, 1], scores["probability"])
    with pytest.raises(mlflow.exceptions.MlflowException, match="lag_07"):
        model.predict(features(test).drop(columns="lag_07"))


@pytest.mark.slow
def test_a_second_run_gives_identical_windows(first_run, run, spark, tmp_path):
    """In another data root and process: the same to the last bit."""
    one, other = first_run[0] / "data", tmp_path / "else where"
    run(data_root=other, tags=["ingest", "preprocess"])
    assert not (tmp_path / "data").exists()
    for name in TABLES:
        if name != "test_scores":
            pd.testing.assert_frame_equal(table(spark, one, name), table(spark, other, name))


def test_four_runs_by_tag_give_what_one_run_gives(trained, run, spark, tmp_path):
    """Ingest, preprocess, train, evaluate: one candidate, one MLflow run, the same metrics."""
    sliced = tmp_path / "else where"
    for tag in ("ingest", "preprocess", "train", "evaluate"):
        run(**SMALL, data_root=sliced, tags=[tag], candidate="sliced")
    assert not (tmp_path / "data").exists()
    for name in TABLES:  # of the first candidate: the second one kept its history
        one = table(spark, trained, name, version=0)
        pd.testing.assert_frame_equal(one, table(spark, sliced, name))
    for name in FILES:
        assert (trained / name).read_text() == (sliced / name).read_text()
    [tracked] = MlflowClient(f"sqlite:///{sliced}/mlflow/mlflow.db").search_runs(["1"])
    assert tracked.data.tags["candidate"] == "sliced"
    assert tracked.data.tags["git_commit"] == commit()
    assert tracked.data.tags["version.test_scores"] == "0"


@pytest.mark.slow
def test_the_site_has_the_report_and_a_graph_without_traces_of_this_machine(project, trained):
    """What `make site` publishes, built from a project after a run: stages, layers, previews."""
    ignored = shutil.ignore_patterns("mlflow", "spark")
    shutil.copytree(trained, project / "data", dirs_exist_ok=True, ignore=ignored)
    command = [sys.executable, ROOT / "scripts/site.py"]
    built = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "Warning" not in built.stderr + built.stdout
    report = (project / "site/index.html").read_text()
    assert '<a href="pipelines/">' in report
    page, api = project / "site/pipelines/index.html", project / "site/pipelines/api"
    assert "://" not in page.read_text()
    graph = json.loads((api / "main").read_text())
    assert graph["layers"] == ["source", "prices", "windows", "model", "report"]
    stages = {"data_engineering", "data_science", "reporting"}
    assert graph["modular_pipelines"].keys() == stages | {"__root__"}  # they can be folded
    by_name = {node["name"]: node for node in graph["nodes"]}
    assert "split_by_date" in by_name
    for name in ("metrics", "model_selection", "roc_curve"):
        details = json.loads((api / "nodes" / by_name[name]["id"]).read_text())
        assert details["preview"], name
    assert details["filepath"] == "data/reporting/figures/roc_curve.png"
    written = [file for file in api.rglob("*") if file.is_file()]
    assert not [file for file in written if str(project) in file.read_text()]
    scripts = "".join(file.read_text() for file in page.parent.glob("assets/index-*.js"))
    assert 'fetch("./api/run-status")' in scripts
