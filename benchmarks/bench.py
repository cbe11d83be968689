"""Speed as ratios against peers, each measured in this same run: ``make bench``.

Every contender runs in a process of its own, with its imports done before its clock starts.
"""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

HERE = Path(__file__).parent
ROOT = HERE.parent
TREES = [50, 100, 200, 500, 1000]
ROWS = (365, 3270)
"""Sessions of IBM that the trainings are timed on: about the original's year, and all there are."""


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
        validate: whether the candidates are tried by walk-forward validation; without it the
            choice is by training F1, as in the original.
    """
    import mlflow
    import original

    from candlecast import forests
    from candlecast.datasets import ForestDataset, LoggedJSON
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
        grown, training_f1 = nodes.grow_forest(train, *forest)
        if validate:
            scores, _ = nodes.try_candidates(train, *forest, folds=5, purge=14)
            table, chosen = nodes.choose_candidate(scores, training_f1)
        else:
            table = [{"trees": trees, "training_f1": f1} for trees, f1 in training_f1.items()]
            chosen = max(training_f1, key=lambda trees: training_f1[trees])
        candidates = LoggedJSON(filepath=str(tracking / "c.json"), step="trees", prefix="c")
        candidates.save(table)
        model = forests.first_trees(grown, chosen)
        ForestDataset().save((model, forests.features(train.head(5))))
    return time.perf_counter() - since


def in_a_process(contender: str, sessions: int) -> float:
    """Run one contender of this file in a new process."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, __file__, contender, str(sessions), folder]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(json.loads(said.splitlines()[-1]))


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of a command, from the shell's side."""
    since = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - since


def compare_training() -> None:
    """Print how much faster the five candidates are fitted and tracked than by the original."""
    for sessions in ROWS:
        original, plain, validated = (
            in_a_process(name, sessions) for name in ("original", "plain", "validated")
        )
        sys.stdout.write(
            f"five candidates, fitted and tracked, {sessions} sessions of IBM\n"
            f"  original (five autologged runs)        {original:6.1f} s\n"
            f"  candlecast, one logged model           {plain:6.1f} s  {original / plain:5.1f} x\n"
            f"  candlecast, with walk-forward as well  {validated:6.1f} s"
            f"  {original / validated:5.1f} x\n"
        )


def compare_run() -> None:
    """Print the cost of a whole ``kedro run`` beside a bare script of the same work."""
    kedro = str(Path(sys.executable).with_name("kedro"))
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        bare = seconds([sys.executable, str(HERE / "bare.py"), one])
        run = seconds([kedro, "run", "--params", f"data_root={other}"])
    sys.stdout.write(
        "a whole run on the sample\n"
        f"  bare script: same imports, session, Delta writes, fits, one model  {bare:6.1f} s\n"
        f"  kedro run: all that, validation's choice, checks, evaluation,"
        f" report  {run:6.1f} s  {run / bare:4.2f} x\n"
    )


def main() -> None:
    """Time one contender when told which, else everything."""
    if len(sys.argv) == 1:
        compare_training()
        compare_run()
        for peer in ("fetch.py", "gate.py", "scoring.py"):
            sys.stdout.write(f"{peer}\n")
            sys.stdout.flush()
            subprocess.run([sys.executable, str(HERE / peer)], check=True)
        return
    contender, sessions, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    csv = write_csv(sessions, folder)
    if contender == "original":
        took = time_original(csv, folder)
    else:
        took = time_candlecast(csv, folder, validate=contender == "validated")
    sys.stdout.write(f"\n{json.dumps(took)}\n")


if __name__ == "__main__":
    main()
