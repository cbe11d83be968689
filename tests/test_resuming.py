"""Typical ways to run a part again: each works, or is refused with the command that does."""

import shlex

import pytest
from kedro.framework.cli.utils import find_run_command
from mlflow.tracking import MlflowClient

from candlecast.__main__ import read_options
from candlecast.errors import CandlecastError, IncompatibleRunError, MissingInputError
from candlecast.runtime.log import expected_message
from conftest import SMALL


@pytest.fixture
def refusal(run, stored):
    """Run what is refused; return the options of the command that the message ends with."""
    client = MlflowClient(f"sqlite:///{stored}/mlflow/mlflow.db")

    def state():
        runs = client.search_runs(["1"])
        return [(each.info.status, each.info.end_time, each.data.tags) for each in runs]

    def refused(error: type[CandlecastError], **options):
        before = state()
        with pytest.raises(error) as caught:
            run(**options)
        assert state() == before  # no new run, and the candidate's own is as it was
        words = shlex.split(str(caught.value).rpartition("kedro run ")[2])
        given = read_options(find_run_command("candlecast"), words).params
        names = ("tags", "node_names", "from_nodes", "to_nodes")
        return {**given.pop("params"), **{name: given[name] for name in names if given[name]}}

    return refused


def test_one_node_needs_what_only_a_run_holds(run, refusal, stored):
    given = {**SMALL, "candidate": "second"}
    first = ["reporting.build_tables", "reporting.describe_training"]
    (stored / "reporting/report.html").unlink()
    typed = refusal(MissingInputError, **given, node_names=["reporting.write_report"])
    assert (typed["from_nodes"], typed["to_nodes"]) == (first, ["reporting.write_report"])
    run(**typed)
    assert "second" in (stored / "reporting/report.html").read_text()
    typed = refusal(MissingInputError, **given, node_names=["data_engineering.make_windows"])
    assert typed["from_nodes"] == ["data_engineering.select_prices"]
    assert typed["to_nodes"] == ["data_engineering.make_windows"]
    # The metrics that are there are not this candidate's.
    (stored / "reporting/metrics.json").write_text('{"accuracy": 1.0}')
    given["node_names"] = ["reporting.apply_gate"]
    assert refusal(MissingInputError, **given)["from_nodes"] == ["reporting.evaluate_model"]


def test_from_a_node_on(refusal):
    typed = refusal(
        MissingInputError, **SMALL, candidate="second", from_nodes=["data_science.select_model"]
    )
    names = ("collect_training", "predict_champion")
    assert typed["from_nodes"] == [f"data_science.{name}" for name in names]
    assert "to_nodes" not in typed


def test_evaluating_without_the_candidate_and_its_parameters(run, refusal):
    """All that differs is named at once, so the command works as it is."""
    typed = refusal(IncompatibleRunError, tags=["evaluate"])
    assert (typed["candidate"], typed["tags"]) == ("second", ["evaluate"])
    assert (typed["estimators"], typed["evaluation"]) == (
        "forest_5 forest_10 forest_20",
        {"repetitions": 1000},
    )
    run(**typed)


def test_missing_outputs_of_a_killed_candidate(refusal, stored):
    """It had preprocessed; the files of the candidate before it are all there."""
    client = MlflowClient(f"sqlite:///{stored}/mlflow/mlflow.db")
    tables = {f"version.{name}": "1" for name in ("prices", "quality", "windows", "train", "test")}
    killed = client.create_run("1", tags={"candidate": "killed", **tables}, run_name="killed")
    client.log_param(killed.info.run_id, "window", "14")
    client.set_terminated(killed.info.run_id, "KILLED")
    given = {**SMALL, "candidate": "killed", "only_missing_outputs": True}
    typed = refusal(IncompatibleRunError, **given, window=5)
    assert (typed["tags"], typed["window"]) == (["preprocess", "train", "evaluate"], 14)
    client.log_artifact(killed.info.run_id, str(stored / "training/leakage_audit.json"))
    assert refusal(MissingInputError, **given)["tags"] == ["train", "evaluate"]
    unknown = refusal(MissingInputError, **{**given, "candidate": "new"})
    assert "tags" not in unknown


def test_a_stage_without_the_one_before_it(run, refusal, tmp_path):
    empty = tmp_path / "empty"
    typed = refusal(MissingInputError, data_root=empty, candidate="new", tags=["train"])
    assert typed["tags"] == ["ingest", "preprocess", "train"]
    typed = refusal(MissingInputError, data_root=empty, candidate="new", tags=["evaluate"])
    assert "tags" not in typed
    assert not (empty / "tables").exists()


def test_a_node_by_half_its_name_is_refused_in_one_line(run):
    with pytest.raises(ValueError, match="write_report") as caught:
        run(node_names=["write_report"])
    assert "reporting.write_report" in str(expected_message(caught.value))
    with pytest.raises(ValueError, match="a bug") as caught:
        raise ValueError("a bug")
    assert expected_message(caught.value) is None
