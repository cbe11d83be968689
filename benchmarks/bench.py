"""Speed as ratios against peers, each measured in this same run: ``make bench``.

Every contender runs in a process of its own, with its imports done before its clock starts. They
run in turn, several rounds; a figure is the median of the rounds, with the smallest and the
largest. ``--quick`` is a small size of everything, to see that it runs.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pandas as pd

HERE = Path(__file__).parent
ROOT = HERE.parent
TREES = [50, 100, 200, 500, 1000]
ROUNDS = 3
ROWS = (365, 3270)
"""Sessions of IBM that the trainings are timed on: about the original's year, and all there are."""

PEERS = ("fetch.py", "gate.py", "prediction.py")
"""The other benchmarks, each a script of its own."""


def write_csv(sessions: int, folder: Path) -> Path:
    """Write the first sessions of IBM as the original reads them: Open, Close."""
    sample = pd.read_csv(ROOT / "data/sample/prices.csv")
    prices = sample[sample["ticker"] == "IBM"].head(sessions)
    file = folder / "ibm.csv"
    prices.rename(columns={"open": "Open", "close": "Close"}).to_csv(file, index=False)
    return file


def open_store(tracking: Path) -> None:
    """Make MLflow's SQLite store before a clock starts: it is made once, not for each training."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tracking / 'mlflow.db'}")
    mlflow.search_experiments()


def time_original(csv: Path, tracking: Path) -> float:
    """Seconds of the original: five autologged fits, the choice and the test."""
    import original

    features, up = original.windows(original.read_deltas(csv))
    open_store(tracking)
    since = time.perf_counter()
    original.fit_original(features, up, tracking)
    return time.perf_counter() - since


def time_candlecast(csv: Path, tracking: Path, *, validate: bool) -> float:
    """Seconds of candlecast's own nodes and datasets on the rows that the original trains on.

    Args:
        csv: as for the original.
        tracking: a folder for MLflow's store.
        validate: whether the estimators are tried by walk-forward validation; without it the
            choice is by training F1, as in the original.
    """
    import mlflow
    import original

    from candlecast.io.tracking import ForestDataset, LoggedJSON
    from candlecast.models import forests, selection
    from candlecast.pipelines.data_science import nodes

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    features, up = original.windows(original.read_deltas(csv))
    rows = int(len(up) * (1 - original.TEST_SIZE))
    train = pd.DataFrame(features[:rows, ::-1], columns=[f"lag_{n:02d}" for n in range(1, 15)])
    days = pd.date_range("2000-01-03", periods=rows)
    train = train.assign(ticker="IBM", session=days, up=up[:rows])
    forest = (TREES, 0.1, original.SEED)

    open_store(tracking)
    since = time.perf_counter()
    mlflow.create_experiment("bench", artifact_location=str(tracking / "artifacts"))
    mlflow.set_experiment("bench")
    with mlflow.start_run():
        mlflow.log_params({"trees": TREES, "min_weight_fraction_leaf": 0.1})
        largest, training_f1 = nodes.fit_largest_forest(train, *forest)
        if validate:
            fold_metrics, _ = nodes.validate_estimators(train, *forest, folds=5, purge=14)
            table, chosen = selection.choose_estimator(fold_metrics, training_f1)
        else:
            table = [{"trees": trees, "training_f1": f1} for trees, f1 in training_f1.items()]
            chosen = max(training_f1, key=lambda trees: training_f1[trees])
        estimators = LoggedJSON(filepath=str(tracking / "e.json"), step="trees", prefix="e")
        estimators.save(table)
        model = forests.first_trees(largest, chosen)
        ForestDataset().save((model, forests.features(train.head(5)), {}))
    return time.perf_counter() - since


def in_a_process(contender: str, sessions: int) -> float:
    """Run one contender of this file in a new process."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--contender", contender, str(sessions), folder]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(json.loads(output.splitlines()[-1]))


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of a command, from the shell's side; its last word is an empty folder."""
    with TemporaryDirectory() as folder:
        since = time.perf_counter()
        subprocess.run([*command[:-1], command[-1] + folder], check=True, capture_output=True)
        return time.perf_counter() - since


def compare(title: str, contenders: Mapping[str, Callable[[], float]], rounds: int) -> None:
    """Print the seconds of each contender, and how many times faster it is than the first.

    Args:
        title: what they do.
        contenders: what takes the seconds, by name.
        rounds: how often each is timed, all of them in turn.
    """
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, time_it in contenders.items():
            took[name].append(time_it())
    sys.stdout.write(f"{title}: median of {rounds} [smallest, largest]\n")
    first = median(next(iter(took.values())))
    for name, all_of in took.items():
        middle = median(all_of)
        sys.stdout.write(
            f"  {name:<38} {middle:6.1f} s [{min(all_of):.1f}, {max(all_of):.1f}]"
            f"  {first / middle:5.2f} x\n"
        )
    sys.stdout.flush()


def compare_training(sessions: int, rounds: int) -> None:
    """Print how much faster the five estimators are fitted and tracked than by the original."""
    names = {
        "original": "original, five autologged runs",
        "plain": "candlecast, one logged model",
        "validated": "candlecast, with walk-forward as well",
    }
    compare(
        f"five estimators, fitted and tracked, {sessions} sessions of IBM",
        {text: partial(in_a_process, name, sessions) for name, text in names.items()},
        rounds,
    )


def compare_run(quick: bool, rounds: int) -> None:
    """Print the cost of a whole ``kedro run`` beside a bare script of the same work.

    The script has the same imports, session, Delta writes and fits, and logs one model; the run
    has validation's choice, checks, evaluation and report as well.
    """
    bare = [sys.executable, str(HERE / "bare.py"), *(["--quick"] if quick else []), ""]
    kedro = [str(Path(sys.executable).with_name("kedro")), "run", "--params"]
    small = "forest_sizes=5 10," if quick else ""
    compare(
        "a whole run on the sample",
        {
            "bare script": lambda: seconds(bare),
            "kedro run": lambda: seconds([*kedro, f"{small}data_root="]),
        },
        rounds,
    )


def time_contender(contender: str, sessions: int, folder: Path) -> float:
    """Time one contender of the trainings, in this process."""
    csv = write_csv(sessions, folder)
    if contender == "original":
        return time_original(csv, folder)
    return time_candlecast(csv, folder, validate=contender == "validated")


def main() -> None:
    """Time everything, or one contender in this process."""
    parser = argparse.ArgumentParser(description="Speed as ratios against peers.")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--contender", nargs=3, help="of the trainings: name, sessions, folder")
    arguments = parser.parse_args()
    if arguments.contender:
        name, sessions, folder = arguments.contender
        sys.stdout.write(f"\n{json.dumps(time_contender(name, int(sessions), Path(folder)))}\n")
        return
    quick = arguments.quick
    rounds = 1 if quick else ROUNDS
    for sessions in ROWS[:1] if quick else ROWS:
        compare_training(sessions, rounds)
    compare_run(quick, rounds)
    for peer in PEERS:
        sys.stdout.write(f"{peer}\n")
        sys.stdout.flush()
        command = [sys.executable, str(HERE / peer), *(["--quick"] if quick else [])]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
