"""Windows, split, audit and prediction of a folder of prices, by any kind of Spark session."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import SparkSession
from sklearn.tree import DecisionTreeClassifier

from candlecast.features.audit import audit_leakage
from candlecast.features.computing import feature_columns
from candlecast.features.split import split_by_date
from candlecast.features.windows import make_windows
from candlecast.frames import to_pandas
from candlecast.models.prediction import predict_windows

WINDOW, BODY, PURGE = 14, "return", 14
FEATURES = ["lags", "range"]


def stages(spark: SparkSession, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return the rows to train on, the test rows with a tree's predictions, and the evidence."""
    prices = spark.read.parquet(str(folder / "prices.parquet"))
    windows = make_windows(prices, WINDOW, BODY, FEATURES).persist()
    train, test = split_by_date(windows, 0.2, PURGE)
    evidence = audit_leakage(prices, train, test, WINDOW, BODY, FEATURES, PURGE)
    columns = feature_columns(FEATURES, WINDOW)
    keys = ["ticker", "session"]
    rows = to_pandas(train).sort_values(keys, ignore_index=True)
    tree = DecisionTreeClassifier(max_depth=6, random_state=0).fit(rows[columns], rows["up"])
    predicted = to_pandas(predict_windows(tree, test, columns))
    return rows, predicted.sort_values(keys, ignore_index=True), evidence


def write_stages(spark: SparkSession, folder: Path) -> None:
    """Compute them, and write what `stages` returns beside the prices."""
    train, test, evidence = stages(spark, folder)
    train.to_parquet(folder / "train.parquet")
    test.to_parquet(folder / "test.parquet")
    (folder / "evidence.json").write_text(json.dumps(evidence))
