"""Compare prediction on Spark with plain scikit-learn: ``python benchmarks/prediction.py``.

Spark reads five million windows of 14 lags from Parquet, predicts them and discards the result; its
time includes the start of the job. scikit-learn predicts the same rows in memory, a million at a
time (which is faster than all at once), and neither reads nor writes: its best case.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import candlecast

candlecast.silence_third_party()

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from figures import ROUNDS, Figure, compare, in_turn, start_spark  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402
from pyspark.sql import functions as F  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402

from candlecast.features.definitions import lag_columns  # noqa: E402
from candlecast.models.prediction import predict_windows  # noqa: E402

LAGS = lag_columns(14)
SEED = 4284
SLICE = 1_000_000
"""Rows that scikit-learn predicts at once."""

AIM = 0.5
"""The ratio to scikit-learn's throughput on one core."""


def fit_forest(trees: int) -> RandomForestClassifier:
    """Fit a forest as the project does, on random bodies with a weak signal."""
    random = np.random.default_rng(SEED)
    lags = random.normal(0, 0.02, (20_000, len(LAGS))).astype(np.float32)
    up = (random.normal(0, 0.02, len(lags)) - 0.1 * lags[:, 0] > 0).astype(int)
    forest = RandomForestClassifier(trees, min_weight_fraction_leaf=0.1, random_state=SEED)
    return forest.fit(lags, up)


def write_rows(spark: SparkSession, rows: int, folder: str) -> None:
    """Write random windows with Spark."""
    bodies = (
        (F.randn(SEED + lag) * 0.02).cast("float").alias(name) for lag, name in enumerate(LAGS)
    )
    spark.range(rows).select(F.col("id").alias("key"), *bodies).write.parquet(folder)


def time_spark(spark: SparkSession, forest: RandomForestClassifier, folder: str) -> float:
    """Return the seconds that Spark takes to read and predict all rows."""
    forest.set_params(n_jobs=1)
    since = time.perf_counter()
    predictions = predict_windows(forest, spark.read.parquet(folder), LAGS)
    predictions.write.format("noop").mode("overwrite").save()
    return time.perf_counter() - since


def time_sklearn(forest: RandomForestClassifier, lags: np.ndarray, jobs: int) -> float:
    """Return the seconds that scikit-learn takes to predict the rows in memory."""
    forest.set_params(n_jobs=jobs)
    since = time.perf_counter()
    for first in range(0, len(lags), SLICE):
        forest.predict_proba(lags[first : first + SLICE])
    return time.perf_counter() - since


def in_memory(folder: str, rows: int) -> np.ndarray:
    """Return the rows as one float32 matrix, as scikit-learn needs them."""
    lags, first = np.empty((rows, len(LAGS)), dtype=np.float32), 0
    for file in sorted(Path(folder).glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(SLICE, columns=LAGS):
            part = lags[first : first + batch.num_rows]
            for place, name in enumerate(LAGS):
                part[:, place] = batch.column(name)
            first += batch.num_rows
    return lags


def worker_peak() -> float:
    """Return the highest peak memory of a Python worker in MB; NaN without /proc."""
    peaks = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):  # the process has ended
            if b"pyspark.daemon" in (folder / "cmdline").read_bytes():
                status = (folder / "status").read_text()
                peaks.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
    return max(peaks, default=float("nan"))


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Time both, print their throughput and return the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="50,000 rows, 10 trees, one round")
    given = parser.parse_args(arguments)
    if given.quick:
        given.rows, given.trees = 50_000, 10
    rows, forest = given.rows, fit_forest(given.trees)
    with TemporaryDirectory() as folder:
        spark, windows = start_spark(), f"{folder}/windows"
        write_rows(spark, rows, windows)
        lags = in_memory(windows, rows)
        times = in_turn(
            {
                "scikit-learn, n_jobs=1": lambda: time_sklearn(forest, lags, 1),
                "scikit-learn, n_jobs=-1": lambda: time_sklearn(forest, lags, -1),
                "Spark, from Parquet": lambda: time_spark(spark, forest, windows),
            },
            1 if given.quick else ROUNDS,
        )
        *peers, _ = times
        figures = compare(
            f"predicting {rows:,} rows, {given.trees} trees",
            times,
            peers,
            aims=[AIM, None],
            why="Spark reads Parquet and starts a job, scikit-learn has all rows in memory.",
        )
        sys.stdout.write(f"  peak memory of a Python worker: {worker_peak():.0f} MB\n")
    return figures


if __name__ == "__main__":
    main()
