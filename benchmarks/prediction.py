"""Compare prediction on Spark with plain scikit-learn: ``python benchmarks/prediction.py``.

Spark reads ten million windows of 14 lags from Parquet, predicts them and discards the result; its
time includes the start of the job. scikit-learn predicts the same rows in memory, a million at a
time (which is faster than all at once), and neither reads nor writes: its best case.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import candlecast

candlecast.silence_third_party()

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import yaml  # noqa: E402
from figures import emit  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402
from pyspark.sql import functions as F  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402

from candlecast.features.definitions import lag_columns  # noqa: E402
from candlecast.models.prediction import predict_windows  # noqa: E402
from candlecast.runtime.spark import start_session  # noqa: E402

ROOT = Path(__file__).parents[1]
LAGS = lag_columns(14)
SEED = 4284
SLICE = 1_000_000
"""Rows that scikit-learn predicts at once."""

TARGET = 0.5
"""The target: the ratio to scikit-learn's throughput on one core."""


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


def main() -> None:
    """Time both; print throughput and ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="50,000 rows, 10 trees")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.trees = 50_000, 10
    rows, forest = arguments.rows, fit_forest(arguments.trees)
    forest.set_params(n_jobs=1)
    configuration = yaml.safe_load((ROOT / "conf/base/spark.yml").read_text())["session"]
    with TemporaryDirectory() as folder:
        spark, windows = start_session(configuration, Path(folder)), f"{folder}/windows"
        write_rows(spark, rows, windows)
        seconds = {"spark": time_spark(spark, forest, windows)}
        peak = worker_peak()
        spark.stop()
        lags = in_memory(windows, rows)
    seconds |= {str(jobs): time_sklearn(forest, lags, jobs) for jobs in (1, -1)}
    speed = {name: rows / took for name, took in seconds.items()}
    one, every = speed["spark"] / speed["1"], speed["spark"] / speed["-1"]
    sys.stdout.write(
        f"predicting {rows:,} rows of {len(LAGS)} lags, {arguments.trees} trees\n"
        f"  scikit-learn, n_jobs=1   {speed['1']:10,.0f} rows/s\n"
        f"  scikit-learn, n_jobs=-1  {speed['-1']:10,.0f} rows/s\n"
        f"  Spark, from Parquet      {speed['spark']:10,.0f} rows/s"
        f"  {one:.2f} x n_jobs=1, {every:.2f} x n_jobs=-1\n"
        f"  peak memory of a Python worker: {peak:.0f} MB\n"
    )
    why = "Spark reads Parquet and starts a job, scikit-learn has all rows in memory."
    for jobs in ("1", "-1"):
        title, peer = f"predicting {rows:,} rows on Spark", f"scikit-learn, n_jobs={jobs}"
        aim = TARGET if jobs == "1" else None
        emit(title, seconds["spark"], peer, seconds[jobs], aim=aim, why=why)
    if rows >= 10_000_000 and one < TARGET:
        sys.exit(f"Below the target of {TARGET} x n_jobs=1.")


if __name__ == "__main__":
    main()
