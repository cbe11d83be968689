"""The benchmark peer: the original's procedure on IBM's first 400 sessions of the sample."""

import doctest
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split

PROJECT = Path(__file__).resolve().parents[1]
SCRIPT = PROJECT / "benchmarks" / "original.py"
PRINTED = """\
trees: 200
training F1: 0.8301
test accuracy: 0.4433

              precision    recall  f1-score   support

           0       0.45      0.43      0.44        49
           1       0.44      0.46      0.45        48

    accuracy                           0.44        97
   macro avg       0.44      0.44      0.44        97
weighted avg       0.44      0.44      0.44        97
"""


@pytest.fixture(scope="module")
def original():
    """Return benchmarks/original.py as a module; it belongs to no package."""
    spec = importlib.util.spec_from_file_location("original", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ibm() -> pd.DataFrame:
    """Return IBM's first 400 sessions with Yahoo's column names."""
    prices = pd.read_csv(PROJECT / "data" / "sample" / "prices.csv")
    first = prices[prices["ticker"] == "IBM"].head(400).reset_index(drop=True)
    return first[["session", "open", "high", "low", "close", "adj_close"]].set_axis(
        ["Date", "Open", "High", "Low", "Close", "Adj Close"], axis=1
    )


def run(csv: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as a person would, in `folder`."""
    folder.mkdir()
    # MLflow's own setting: it gives up inferring pip requirements, which takes 6 s a model.
    environment = {**os.environ, "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "0"}
    command = [sys.executable, str(SCRIPT), "--csv", str(csv)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def refused(original, monkeypatch, csv: Path) -> str:
    """Return the message the script leaves with; Python makes exit code 1 of it."""
    monkeypatch.setattr(sys, "argv", ["original.py", "--csv", str(csv)])
    with pytest.raises(SystemExit) as left:
        original.main()
    return left.value.code


@pytest.fixture
def mixed(ibm, tmp_path) -> Path:
    """Write the same sessions with more columns, in another order, and a row without open."""
    hole = pd.DataFrame({"Date": ["2000-03-04"], "Close": [101.0]})
    rows = pd.concat([ibm[:3], hole, ibm[3:]])
    csv = tmp_path / "mixed.csv"
    rows[["Date", "Adj Close", "Close", "Low", "High", "Open"]].to_csv(csv, index=False)
    return csv


@pytest.mark.slow
def test_prints_the_chosen_size_its_f1_and_accuracy(mixed, tmp_path):
    """The dropped row is counted on stderr; nothing is left in the working directory."""
    done = run(mixed, tmp_path / "here")
    assert (done.returncode, done.stdout) == (0, PRINTED)
    assert "mixed.csv: dropped 1 of 401 rows without open or close" in done.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_other_columns_their_order_and_rows_without_an_open_change_nothing(
    original, ibm, mixed, tmp_path
):
    ibm[["Open", "Close"]].to_csv(tmp_path / "ibm.csv", index=False)
    deltas = original.read_deltas(tmp_path / "ibm.csv")
    assert len(deltas) == 400
    np.testing.assert_array_equal(original.read_deltas(mixed), deltas)


def test_the_printed_figures_are_those_of_a_bare_forest(original, ibm, tmp_path):
    """Autolog's training F1 is the weighted one."""
    ibm.to_csv(tmp_path / "ibm.csv", index=False)
    features, up = original.windows(original.read_deltas(tmp_path / "ibm.csv"))
    train, test, train_up, test_up = train_test_split(
        features, up, test_size=0.25, random_state=4284
    )
    forest = RandomForestClassifier(200, min_weight_fraction_leaf=0.1, random_state=4284)
    forest.fit(train, train_up)
    weighted = f1_score(train_up, forest.predict(train), average="weighted")
    accuracy = accuracy_score(test_up, forest.predict(test))
    assert (len(train), len(test)) == (289, 97)
    assert (f"{weighted:.4f}", f"{accuracy:.4f}") == ("0.8301", "0.4433")


def test_deltas_are_close_minus_open_by_name_in_file_order(original, tmp_path):
    """Close comes first here, so a position would find the wrong column."""
    csv = tmp_path / "three.csv"
    csv.write_text("Close,Adj Close,Open\n2.5,9,2.0\n1.0,9,1.25\n3.0,9,3.0\n")
    assert original.read_deltas(csv).tolist() == [0.5, -0.25, 0.0]


def test_windows_are_oldest_first_and_a_body_of_zero_is_not_up(original):
    """The last body is the label of the last window only."""
    features, up = original.windows(np.array([*range(1, 15), 0.0, -1.0, 2.0]))
    assert features[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert features[:, 13].tolist() == [14.0, 0.0, -1.0]
    assert up.tolist() == [0, 0, 1]


def test_doctests(original):
    """The module's own examples hold: none fails of three."""
    assert doctest.testmod(original) == (0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Date,Close\n2000-03-01,1\n", "got Date, Close: missing Open"),
        ("open,close\n1,2\n", "got open, close: missing Open and Close"),
        ("Open,Close\n1,2\n1,two\n", "expected numbers in Open and Close: Unable to parse"),
        ("Open,Close\n" + "1,2\n" * 15, "expected at least 16 sessions, got 15"),
        ("Open,Close\n" + "1,2\n" * 40, "expected both classes among 19 training rows, got one"),
        ("", "No columns to parse from file"),
    ],
)
def test_bad_files_are_refused(original, monkeypatch, tmp_path, text, message):
    """One sentence names what was expected and what came."""
    csv = tmp_path / "bad.csv"
    csv.write_text(text)
    assert message in refused(original, monkeypatch, csv)


def test_an_absent_file_is_refused(original, monkeypatch, tmp_path):
    """The message names the file."""
    assert "nowhere.csv" in refused(original, monkeypatch, tmp_path / "nowhere.csv")
