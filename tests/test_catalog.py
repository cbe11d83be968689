"""The catalog outside a run: a plain script loads each dataset, tables by Spark."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DatasetError

from candlecast.errors import NoChampionError
from conftest import ROOT, SMALL, Run

SCRIPT = """
import json, sys
import pandas as pd
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DatasetError, MemoryDataset

project, data_root = sys.argv[1:]
bootstrap_project(project)

def catalog_of(**parameters):
    parameters["data_root"] = data_root
    with KedroSession.create(project_path=project, runtime_params=parameters) as session:
        return session.load_context().catalog

def load(catalog, name):
    try:
        data = catalog.load(name)
    except DatasetError as error:
        return ["DatasetError", str(error)]
    if isinstance(data, pd.DataFrame):
        return ["DataFrame", len(data)]
    if type(data).__module__.startswith("pyspark"):
        return ["Spark", data.count()]
    return [type(data).__name__, len(data) if hasattr(data, "__len__") else None]

newest = catalog_of()
found = {
    name: load(newest, name)
    for name in newest.keys()
    if name.partition(":")[0] not in ("parameters", "params")
    and not isinstance(newest[name], MemoryDataset)
}
named = catalog_of(candidate="first")
print(json.dumps({
    "found": found,
    "memory": [name for name in newest.keys() if name not in found],
    "newest": newest.load("lineage")["candidate"],
    "features": newest.load("model").n_features_in_,
    "named": [named.load("lineage")["candidate"], named.load("candidate_run").name],
    "unknown": load(catalog_of(candidate="frist"), "model"),
}))
"""

SAVE_ONLY = {"promotion", "rollback", "roc_curve", "calibration_curve", "equity_curve"}
GONE_AFTER_A_RUN = {"fetched@files", "fetched@spark"}
NAMED_ONLY = {"candidate_run"}


def test_a_script_loads_every_dataset(run: Run, stored: Path, tmp_path: Path) -> None:
    run(**{key: SMALL[key] for key in ("tickers", "start")}, pipeline_names=["forecast"])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT), str(stored)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    found: dict[str, tuple[str, Any]] = results["found"]
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
    assert (results["newest"], results["named"]) == ("second", ["first", "first"])
    assert results["features"] == 14
    kind, text = results["unknown"]
    assert kind == "DatasetError"
    assert "frist" in text
    assert "first" in text


def test_where_nothing_is_stored_each_load_has_one_clear_message(tmp_path: Path) -> None:
    bootstrap_project(ROOT)
    parameters = {"data_root": str(tmp_path / "data")}
    with KedroSession.create(project_path=ROOT, runtime_params=parameters) as session:
        catalog = session.load_context().catalog
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
