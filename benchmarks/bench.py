"""Measure speed as a ratio to peers, all in the same run: ``make bench``.

Every contender runs in its own process and is timed after its imports. Contenders take turns for
several rounds; each result is the median of the rounds, with the smallest and the largest. A table
of all figures is at the end; ``--json FILE`` writes them to a file. ``--quick`` runs everything in
a small size, to check that it works.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pandas as pd
from figures import Figure, machine, make_table, read_figure

HERE = Path(__file__).parent
ROOT = HERE.parent
TREES, QUICK_TREES = (50, 100, 200, 500, 1000), (5, 10)
FOLDS, QUICK_FOLDS = 5, 2
ROUNDS = 3
ROWS = (365, 3270)
"""Sessions of IBM to train on: about one year as in the original, and all of the sample."""

OWN = {"bench.py", "original.py", "bare.py", "figures.py", "market.py"}
"""Files that are no script to run: `market.py` takes longer and runs alone."""

BEHIND = {
    "original": "scikit-learn's fit of the largest forest is half of the time, and MLflow writes "
    "the model with skops and reads it again as a check.",
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
    """Create MLflow's SQLite store before timing: it is created once, not per training run."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tracking / 'mlflow.db'}")
    mlflow.search_experiments()


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

    from candlecast.io.tracking import LoggedJSON, ModelDataset
    from candlecast.models import forests, selection
    from candlecast.pipelines.data_science import nodes

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    features, up = original.windows(original.read_deltas(csv))
    rows = int(len(up) * (1 - original.TEST_SIZE))
    train = pd.DataFrame(features[:rows, ::-1], columns=[f"lag_{n:02d}" for n in range(1, 15)])
    days = pd.date_range("2000-01-03", periods=rows)
    train = train.assign(ticker="IBM", session=days, up=up[:rows])
    forests_of = [f"forest_{size}" for size in trees]
    estimators = (forests_of, 0.1, 100_000, original.SEED)

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


def in_a_process(contender: str, sessions: int, quick: bool) -> float:
    """Time a contender of the training comparison in a new process."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *(["--quick"] if quick else [])]
        command += ["--contender", contender, str(sessions), folder]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(json.loads(output.splitlines()[-1]))


def seconds(command: list[str]) -> float:
    """Return the wall-clock seconds of a command; an empty folder is appended to its last word."""
    with TemporaryDirectory() as folder:
        since = time.perf_counter()
        subprocess.run([*command[:-1], command[-1] + folder], check=True, capture_output=True)
        return time.perf_counter() - since


def compare(
    title: str,
    contenders: Mapping[str, Callable[[], float]],
    rounds: int,
    aims: Sequence[float],
    why: str,
) -> list[Figure]:
    """Print the seconds of each contender, and how many times faster it is than the first.

    Args:
        title: what the contenders do.
        contenders: functions that return the seconds, by name.
        rounds: how often each contender is timed. They take turns.
        aims: of each contender but the first.
        why: why they may be behind.

    Returns:
        One figure per contender but the first.
    """
    seconds_of: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, time_it in contenders.items():
            seconds_of[name].append(time_it())
    sys.stdout.write(f"{title}: median of {rounds} [smallest, largest]\n")
    peer, *_ = seconds_of
    first, figures = median(seconds_of[peer]), []
    for name, times in seconds_of.items():
        typical = median(times)
        sys.stdout.write(
            f"  {name:<38} {typical:6.1f} s [{min(times):.1f}, {max(times):.1f}]"
            f"  {first / typical:5.2f} x\n"
        )
        figure = {"figure": f"{title}: {name}", "ours": typical, "peer": peer, "theirs": first}
        figures.append({**figure, "ratio": first / typical, "times": times, "why": why})
    sys.stdout.flush()
    return [{**figure, "aim": aim} for figure, aim in zip(figures[1:], aims, strict=True)]


def compare_training(sessions: int, quick: bool, rounds: int) -> list[Figure]:
    """Compare fitting and tracking the five forests with the original."""
    names = {
        "original": "original, five autologged runs",
        "plain": "one logged model",
        "validated": "with validation",
    }
    return compare(
        f"five forests, {sessions} sessions",
        {text: partial(in_a_process, name, sessions, quick) for name, text in names.items()},
        rounds,
        aims=(8.0, 3.0),
        why=BEHIND["original"],
    )


def compare_run(quick: bool, rounds: int) -> list[Figure]:
    """Compare a whole ``kedro run`` with a bare script.

    Both have the same imports, session, Delta writes and fits, and log one model; the run also
    selects by validation, checks, evaluates and reports. In the quick size it only ingests:
    market.py has a whole run of that size.
    """
    bare = [sys.executable, str(HERE / "bare.py"), *(["--quick"] if quick else []), ""]
    kedro = [str(Path(sys.executable).with_name("kedro")), "run"]
    kedro += ["--tags", "ingest", "--params"] if quick else ["--params"]
    small = "tickers=IBM,start=2010-01-01," if quick else ""
    return compare(
        "a complete run on the sample",
        {
            "bare script": lambda: seconds(bare),
            "kedro run": lambda: seconds([*kedro, f"{small}data_root="]),
        },
        rounds,
        aims=(1 / 1.15,),
        why=BEHIND["run"],
    )


def run_script(script: str, quick: bool) -> list[Figure]:
    """Run a benchmark of its own script; print its text, return its figures."""
    sys.stdout.write(f"{script}\n")
    command = [sys.executable, str(HERE / script), *(["--quick"] if quick else [])]
    figures = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if figure := read_figure(line):
                figures.append(figure)
            else:
                sys.stdout.write(line)
                sys.stdout.flush()
    if process.returncode:
        sys.exit(process.returncode)
    return figures


def time_contender(contender: str, sessions: int, folder: Path, quick: bool) -> float:
    """Time a contender of the training comparison in this process."""
    csv, trees = write_csv(sessions, folder), QUICK_TREES if quick else TREES
    if contender == "original":
        return time_original(csv, folder, trees)
    folds = QUICK_FOLDS if quick else FOLDS
    return time_candlecast(csv, folder, trees, folds if contender == "validated" else 0)


def main() -> None:
    """Run all benchmarks, or time one contender in this process."""
    parser = argparse.ArgumentParser(description="Measure speed as a ratio to peers.")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--contender", nargs=3, help="time one: name, sessions, folder")
    arguments = parser.parse_args()
    quick = arguments.quick
    if arguments.contender:
        name, rows, folder = arguments.contender
        took = time_contender(name, int(rows), Path(folder), quick)
        sys.stdout.write(f"\n{json.dumps(took)}\n")
        return
    rounds = 1 if quick else ROUNDS
    figures = []
    for sessions in ROWS[:1] if quick else ROWS:
        figures += compare_training(sessions, quick, rounds)
    figures += compare_run(quick, rounds)
    for script in sorted({file.name for file in HERE.glob("*.py")} - OWN):
        figures += run_script(script, quick)
    sys.stdout.write(make_table(figures))
    if arguments.json:
        found = {"machine": machine(), "figures": figures}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
