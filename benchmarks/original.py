"""The original procedure that candlecast is compared with: five autologged forests on raw bodies.

Run `python benchmarks/original.py --csv FILE`. FILE has one row per session of one ticker, oldest
first, with the columns Open and Close; other columns are ignored. The procedure is unchanged: the
14 bodies (close - open) before a session predict whether its body is positive, on a random 75/25
split, and the forest with the best weighted F1 on its own training rows is selected. candlecast
avoids both the random split of overlapping windows and the selection by a training metric.
"""

import argparse
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

# MLflow reads this on import; the benchmark needs no network.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, classification_report
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WINDOW = 14
TREES = (50, 100, 200, 500, 1000)
SEED = 4284
TEST_SIZE = 0.25


class Original(NamedTuple):
    """The result of the procedure.

    `trees` is the selected size, `training_f1` the weighted F1 on the training rows by size;
    `test_accuracy` and `report` (scikit-learn's text) are about the selected forest on the test
    rows.
    """

    trees: int
    training_f1: dict[int, float]
    test_accuracy: float
    report: str


def read_deltas(csv: Path) -> np.ndarray:
    """Return close - open of every row of the file, in the file's order and currency.

    A row without an open or a close is dropped and counted on stderr; the windows are built from
    the remaining rows. The original did not handle such rows.

    Raises:
        ValueError: A column is missing, or a price is not a number.
    """
    prices = pd.read_csv(csv)
    missing = [name for name in ("Open", "Close") if name not in prices.columns]
    if missing:
        raise ValueError(
            f"{csv}: expected the columns Open and Close, got {', '.join(prices.columns)}: "
            f"missing {' and '.join(missing)}"
        )
    try:
        body = prices[["Open", "Close"]].apply(pd.to_numeric)
    except ValueError as error:
        raise ValueError(f"{csv}: expected numbers in Open and Close: {error}") from None
    whole = body.dropna()
    if len(whole) < len(body):
        dropped = len(body) - len(whole)
        sys.stderr.write(f"{csv}: dropped {dropped} of {len(body)} rows without open or close\n")
    return np.asarray(whole["Close"] - whole["Open"], dtype=float)


def windows(deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features and label, one row per session with 14 earlier sessions.

    The features are the 14 bodies before the session, oldest first; the label is 1 where the
    session's own body is positive, else 0.

    >>> features, up = windows(np.arange(16) - 14.5)
    >>> features[:, [0, -1]]
    array([[-14.5,  -1.5],
           [-13.5,  -0.5]])
    >>> up
    array([0, 1])

    Raises:
        ValueError: Fewer sessions than two windows need.
    """
    if len(deltas) < WINDOW + 2:
        raise ValueError(f"expected at least {WINDOW + 2} sessions, got {len(deltas)}")
    frames = np.lib.stride_tricks.sliding_window_view(deltas, WINDOW + 1)
    return frames[:, :WINDOW].copy(), (frames[:, WINDOW] > 0).astype(int)


def fit_original(
    features: np.ndarray, up: np.ndarray, tracking: Path, sizes: "Sequence[int]" = TREES
) -> Original:
    """Split, fit forests in one autologged MLflow run each, select one and evaluate it.

    Args:
        features: From `windows`.
        up: The label from `windows`.
        tracking: An existing folder for MLflow's SQLite store and artifacts.
        sizes: The trees of each forest; the original has five.

    Raises:
        ValueError: The training rows have only one class.
    """
    train, test, train_up, test_up = train_test_split(
        features, up, test_size=TEST_SIZE, random_state=SEED
    )
    if len(np.unique(train_up)) < 2:
        raise ValueError(f"expected both classes among {len(train_up)} training rows, got one")
    forests, training_f1 = {}, {}
    with _autolog(tracking) as experiment:
        for trees in sizes:
            forest = RandomForestClassifier(
                n_estimators=trees,
                criterion="gini",
                min_weight_fraction_leaf=0.1,
                bootstrap=True,
                random_state=SEED,
            )
            with mlflow.start_run(experiment_id=experiment, run_name=f"{trees} trees") as run:
                forests[trees] = forest.fit(train, train_up)
            metrics = MlflowClient().get_run(run.info.run_id).data.metrics
            training_f1[trees] = metrics["training_f1_score"]
    selected = max(sizes, key=lambda trees: training_f1[trees])
    predicted = forests[selected].predict(test)
    return Original(
        trees=selected,
        training_f1=training_f1,
        test_accuracy=float(accuracy_score(test_up, predicted)),
        report=classification_report(test_up, predicted, zero_division=0),
    )


@contextmanager
def _autolog(tracking: Path) -> "Iterator[str]":
    """Yield the id of a new experiment under `tracking`, with autologging on inside the block.

    Everything else is autolog's default: cloudpickle (although log_model would refuse it for a
    forest), signature, figures, and pip requirements inferred for every model.
    """
    was_set = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    before = mlflow.get_tracking_uri() if was_set else None
    folder = tracking.resolve()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.sklearn.autolog(silent=True)
    try:
        with warnings.catch_warnings():
            # mlflow 3.17's autolog passes log_loss an argument that scikit-learn 1.9 renamed.
            warnings.filterwarnings("ignore", "`y_pred` was renamed", FutureWarning)
            # By default an experiment writes ./mlruns into the working directory.
            yield mlflow.create_experiment("original", artifact_location=(folder / "runs").as_uri())
    finally:
        mlflow.sklearn.autolog(disable=True)
        # None unsets it, although the annotation does not allow it (mlflow 3.17).
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


def main() -> None:
    """Print the selected size with its training F1, test accuracy and classification report."""
    parser = argparse.ArgumentParser(description="Five autologged forests on raw candle bodies.")
    parser.add_argument("--csv", type=Path, required=True, help="a file with Open and Close")
    csv = parser.parse_args().csv
    try:
        features, up = windows(read_deltas(csv))
        with TemporaryDirectory() as tracking:
            result = fit_original(features, up, Path(tracking))
    except (OSError, ValueError) as error:
        sys.exit(f"original: {error}")
    sys.stdout.write(
        f"trees: {result.trees}\n"
        f"training F1: {result.training_f1[result.trees]:.4f}\n"
        f"test accuracy: {result.test_accuracy:.4f}\n\n"
        f"{result.report}"
    )


if __name__ == "__main__":
    main()
