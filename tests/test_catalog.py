"""The catalog outside a run loads each dataset, tables by Spark."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import CatalogProtocol, DatasetError, MemoryDataset
from pyspark.sql import DataFrame

from candlecast.errors import NoChampionError
from conftest import ROOT, SMALL, Run

SAVE_ONLY = {"promotion", "rollback", "roc_curve", "calibration_curve", "equity_curve"}
GONE_AFTER_A_RUN = {"fetched@files", "fetched@spark"}
NAMED_ONLY = {"candidate_run"}


def catalog_of(data_root: Path, **parameters: Any) -> CatalogProtocol:
    """The catalog as a script or a notebook has it: no run is active."""
    bootstrap_project(ROOT)
    given = {"data_root": str(data_root), **parameters}
    with KedroSession.create(project_path=ROOT, runtime_params=given) as session:
        return session.load_context().catalog


def load(catalog: CatalogProtocol, name: str) -> tuple[str, Any]:
    """Load a dataset: the type and the length of what came, or the error."""
    try:
        data = catalog.load(name)
    except DatasetError as error:
        return "DatasetError", str(error)
    if isinstance(data, DataFrame):
        return "Spark", data.count()
    return type(data).__name__, len(data) if hasattr(data, "__len__") else None


def test_every_dataset_loads_without_a_run(run: Run, stored: Path) -> None:
    """The notebooks, which slow tests run, do the same in processes of their own."""
    run(**{key: SMALL[key] for key in ("tickers", "start")}, pipeline_names=["forecast"])
    newest, named = catalog_of(stored), catalog_of(stored, candidate="first")
    found = {
        name: load(newest, name)
        for name in newest.keys()  # noqa: SIM118 # a catalog is no mapping
        if name.partition(":")[0] not in ("parameters", "params")
        and not isinstance(newest[name], MemoryDataset)
    }
    refused = {name: text for name, (kind, text) in found.items() if kind == "DatasetError"}
    assert set(refused) == SAVE_ONLY | GONE_AFTER_A_RUN | NAMED_ONLY, refused
    assert "--params candidate=<id>" in refused["candidate_run"]
    rows = {name: count for name, (kind, count) in found.items() if kind in ("DataFrame", "Spark")}
    assert set(rows) >= {
        *("prices", "quality", "windows", "train@spark", "train@pandas", "test@pandas"),
        *("validation_losses", "test_scores", "forecasts"),
    }
    assert 0 not in rows.values()
    assert rows["train@pandas"] == rows["train@spark"]
    assert found["model"][0] == "RandomForestClassifier"
    assert {found[name][0] for name in ("champion", "champion_if_any")} == {"Champion"}
    for name in ("metrics", "importance", "lineage", "track_record", "model_selection"):
        assert found[name][1] > 0
    for name in ("report", "model_card", "summary", "track_record_page"):
        assert found[name][0] == "str"
    assert newest.load("lineage")["candidate"] == "second"
    assert named.load("lineage")["candidate"] == named.load("candidate_run").name == "first"
    assert newest.load("model").n_features_in_ == 14
    kind, text = load(catalog_of(stored, candidate="frist"), "model")
    assert kind == "DatasetError"
    assert "frist" in text
    assert "first" in text


def test_where_nothing_is_stored_each_load_has_one_clear_message(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path / "data")
    for name, named in {
        "prices": str(tmp_path / "data/tables/prices"),
        "test_scores": "kedro run",
        "model": "kedro run",
        "lineage": "kedro run",
        "champion": "kedro run --pipelines registration",
        "metrics": str(tmp_path / "data/reporting/metrics.json"),
    }.items():
        with pytest.raises(DatasetError) as error:
            catalog.load(name)
        assert named in str(error.value)
    with pytest.raises(DatasetError) as error:
        catalog.load("champion")
    from_dataset = error.value.__cause__  # the catalog puts the dataset's name before it
    assert isinstance(from_dataset, DatasetError)
    assert isinstance(from_dataset.__cause__, NoChampionError)
    assert catalog.load("champion_if_any") is None
    predictions = pd.DataFrame({"ticker": ["IBM"], "session": ["2013-03-01"]})
    with pytest.raises(DatasetError, match="probability"):
        catalog.save("test_scores", predictions)
    assert not (tmp_path / "data/tables").exists()
    assert catalog.load("stored_prices") is None
