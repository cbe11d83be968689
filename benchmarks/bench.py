"""Measure speed as a ratio to peers, all in the same run: ``make bench``.

Contenders take turns for several rounds; each result is the median of the rounds, with the smallest
and the largest. Training is timed in a new process each, after its imports. A table of all figures
is at the end; ``--json FILE`` writes them to a file. ``--quick`` runs everything in a small size,
to check that it works; also `market`, which takes minutes and otherwise runs alone.
"""

import argparse
import importlib
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pandas as pd
from figures import KEDRO, ROOT, ROUNDS, Figure, compare, in_turn, machine, make_table, seconds

HERE = Path(__file__).parent
TREES, QUICK_TREES = (50, 100, 200, 500, 1000), (5, 10)
FOLDS, QUICK_FOLDS = 5, 2
ROWS = (365, 3270)
"""Sessions of IBM to train on: about one year as in the original, and all of the sample."""

SCRIPTS = ("fetch", "gate", "ingest", "prediction", "sampling", "windows")
"""Benchmarks of their own script: each has a function `main`, which returns its figures."""

T = TypeVar("T")

BEHIND = {
    "original": "more than half of the time MLflow writes the model by skops, reads it twice as a "
    "check, and looks at all installed packages.",
    "run": "The run also checks prices and features, validates, evaluates and reports.",
}
"""Why a figure may be behind its aim."""


def write_csv(sessions: int, folder: Path) -> Path:
    """Write the first sessions of IBM with the columns that the original reads: Open, Close."""
    sample = pd.read_csv(ROOT / "data/sample/prices.csv")
    prices = sample[sample["ticker"] == "IBM"].head(sessions)
    file = folder / "ibm.csv"
    prices.rename(columns={"open": "Open", "close": "Close"}).to_csv(file, index=False)
    return file


def open_store(tracking: Path) -> None:
    """Make MLflow's SQLite store, and a first run in it, before timing.

    A store is made once, not per training run, and a process imports IPython with its first run.
    """
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(f"sqlite:///{tracking / 'mlflow.db'}")
    first = mlflow.create_experiment("first", artifact_location=str(tracking / "first"))
    with mlflow.start_run(experiment_id=first):
        pass


def time_original(csv: Path, tracking: Path, trees: Sequence[int]) -> float:
    """Return the seconds of the original: an autologged fit per size, selection and test."""
    import original

    features, up = original.windows(original.read_deltas(csv))
    open_store(tracking)
    since = time.perf_counter()
    original.fit_original(features, up, tracking, trees)
    return time.perf_counter() - since


def time_candlecast(csv: Path, tracking: Path, trees: Sequence[int], folds: int) -> float:
    """Return the seconds of candlecast's nodes and datasets on the original's training rows.

    Args:
        csv: the file that the original reads.
        tracking: a folder for MLflow's store.
        trees: the size of each forest.
        folds: of the walk-forward validation that selects the estimator. 0: it is selected by
            training F1, as in the original.
    """
    import mlflow
    import original

    from candlecast import tune_process
    from candlecast.io.tracking import LoggedJSON, ModelDataset
    from candlecast.models import forests, selection
    from candlecast.pipelines.data_science import nodes

    features, up = original.windows(original.read_deltas(csv))
    rows = int(len(up) * (1 - original.TEST_SIZE))
    train = pd.DataFrame(features[:rows, ::-1], columns=[f"lag_{n:02d}" for n in range(1, 15)])
    days = pd.date_range("2000-01-03", periods=rows)
    train = train.assign(ticker="IBM", session=days, up=up[:rows])
    forests_of = [f"forest_{size}" for size in trees]
    estimators = (forests_of, 0.1, 100_000, original.SEED)

    tune_process()  # as a run does
    open_store(tracking)
    since = time.perf_counter()
    mlflow.create_experiment("bench", artifact_location=str(tracking / "artifacts"))
    mlflow.set_experiment("bench")
    with mlflow.start_run():
        mlflow.log_params({"estimators": forests_of, "min_weight_fraction_leaf": 0.1})
        fitted, training_f1 = nodes.fit_estimators(train, *estimators)
        if folds:
            fold_metrics, _ = nodes.validate_estimators(train, *estimators, folds=folds, purge=14)
            table, chosen = selection.choose_estimator(fold_metrics, training_f1)
        else:
            chosen = max(training_f1, key=lambda name: training_f1[name])
            table = [
                {"estimator": name, "training_f1": f1, "chosen": name == chosen}
                for name, f1 in training_f1.items()
            ]
        LoggedJSON(filepath=str(tracking / "e.json"), prefix="e").save(table)
        ModelDataset().save((fitted[chosen], forests.features(train.head(5)), {}))
    return time.perf_counter() - since


def time_contender(contender: str, sessions: int, quick: bool) -> float:
    """Return the seconds of a contender of the training comparison."""
    trees, folds = (QUICK_TREES, QUICK_FOLDS) if quick else (TREES, FOLDS)
    with TemporaryDirectory() as folder:
        csv = write_csv(sessions, Path(folder))
        if contender == "original":
            return time_original(csv, Path(folder), trees)
        return time_candlecast(csv, Path(folder), trees, folds if contender == "validated" else 0)


def seconds_in_new(command: Sequence[str]) -> float:
    """Return the seconds of a command; an empty folder is appended to its last word."""
    with TemporaryDirectory() as folder:
        return seconds([*command[:-1], command[-1] + folder])


def compare_training(sessions: int, quick: bool) -> list[Figure]:
    """Compare fitting and tracking the five forests with the original."""
    names = {
        "original, five autologged runs": "original",
        "one logged model": "plain",
        "with validation": "validated",
    }
    contenders = {
        text: partial(call, quick, time_contender, name, sessions, quick)
        for text, name in names.items()
    }
    return compare(
        f"five forests, {sessions} sessions",
        in_turn(contenders, 1 if quick else ROUNDS),
        peers=list(names)[:1],
        aims=(8.0, 3.0),
        why=BEHIND["original"],
    )


def compare_run(quick: bool) -> list[Figure]:
    """Compare a whole ``kedro run`` with a bare script.

    Both have the same imports, session, Delta writes and fits, and log one model; the run also
    selects by validation, checks, evaluates and reports. In the quick size it only ingests:
    market.py has a whole run of that size.
    """
    bare = [sys.executable, str(HERE / "bare.py"), *(["--quick"] if quick else []), ""]
    kedro = [KEDRO, "run"]
    kedro += ["--tags", "ingest", "--params"] if quick else ["--params"]
    small = "tickers=IBM,start=2010-01-01," if quick else ""
    contenders = {
        "bare script": lambda: seconds_in_new(bare),
        "kedro run": lambda: seconds_in_new([*kedro, f"{small}data_root="]),
    }
    times = in_turn(contenders, 1 if quick else ROUNDS)
    title, why = "a complete run on the sample", BEHIND["run"]
    return compare(title, times, ["bare script"], aims=(1 / 1.15,), why=why)


def call(quick: bool, function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a new process, so that nothing is warm; in the quick size, in this one."""
    if quick:
        return function(*arguments)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def run_script(script: str, quick: bool) -> list[Figure]:
    """Run a benchmark of its own script; return its figures."""
    sys.stdout.write(f"{script}.py\n")
    sys.stdout.flush()
    figures: list[Figure] = importlib.import_module(script).main(["--quick"] if quick else [])
    return figures


def main() -> None:
    """Run all benchmarks."""
    parser = argparse.ArgumentParser(description="Measure speed as a ratio to peers.")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round, one process")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    quick = given.quick
    figures = []
    for sessions in ROWS[:1] if quick else ROWS:
        figures += compare_training(sessions, quick)
    figures += compare_run(quick)
    for script in (*SCRIPTS, "market") if quick else SCRIPTS:
        figures += call(quick, run_script, script, quick)
    sys.stdout.write(make_table(figures))
    if given.json:
        found = {"machine": machine(), "figures": figures}
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
