"""The same work as ``kedro run``, as a bare script without a framework.

``python benchmarks/bare.py [--quick] FOLDER``: the same imports, one Spark session with the same
settings, the same six Delta writes, the same forests (five folds and one on all rows, 1000 trees
each), one logged model. No checks, no quality table, no intervals, no report.
"""

import sys
from pathlib import Path

import arch.bootstrap  # noqa: F401 # for the same imports
import exchange_calendars  # noqa: F401
import jinja2  # noqa: F401
import kedro.framework.cli.cli  # noqa: F401
import kedro_mlflow.framework.hooks  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import mlflow
import numpy as np
import pandas as pd
import statsmodels.stats.api  # noqa: F401
import yaml
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import TimeSeriesSplit

from candlecast.runtime.spark import start_session

ROOT = Path(__file__).parents[1]
LAGS = [f"lag_{n:02d}" for n in range(1, 15)]


def main(folder: Path, trees: int) -> None:
    """Do the work; write everything into the folder."""
    settings = yaml.safe_load((ROOT / "conf/base/spark.yml").read_text())["session"]
    spark = start_session(settings, folder / "spark")

    def write(frame: DataFrame, name: str) -> None:
        frame.write.format("delta").mode("overwrite").save(str(folder / name))

    def read(name: str) -> DataFrame:
        return spark.read.format("delta").load(str(folder / name))

    sample = pd.read_csv(ROOT / "data/sample/prices.csv")
    write(spark.createDataFrame(sample), "prices")
    write(spark.createDataFrame(sample.groupby("ticker").size().reset_index(name="n")), "quality")
    prices = read("prices").withColumn("body", F.col("close") / F.col("open") - 1)
    over = Window.partitionBy("ticker").orderBy("session")
    lags = [F.lag("body", n).over(over).cast("float").alias(name) for n, name in enumerate(LAGS, 1)]
    up = (F.col("close") > F.col("open")).cast("byte").alias("up")
    write(prices.select("ticker", "session", *lags, up).dropna(), "windows")
    dates = sorted(row[0] for row in read("windows").select("session").distinct().collect())
    first_test = int(len(dates) * 0.8)
    write(read("windows").where(F.col("session") < dates[first_test - 14]), "train")
    write(read("windows").where(F.col("session") >= dates[first_test]), "test")
    train, test = read("train").toPandas(), read("test").toPandas()

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("bare", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("bare")
    with mlflow.start_run():
        forest = RandomForestClassifier(
            trees, min_weight_fraction_leaf=0.1, random_state=4284, n_jobs=-1
        )
        days = np.sort(train["session"].unique())
        for fold, (past, validated) in enumerate(TimeSeriesSplit(5).split(days)):
            before = train[train["session"] < days[past[-1] - 13]]
            after = train[train["session"].isin(days[validated])]
            forest.fit(before[LAGS], before["up"])
            loss = log_loss(after["up"], forest.predict_proba(after[LAGS])[:, 1], labels=[0, 1])
            mlflow.log_metric("log_loss", loss, step=fold)
        forest.fit(train[LAGS], train["up"])
        forest.predict_proba(train[LAGS])
        model = RandomForestClassifier(
            min(trees, 50), min_weight_fraction_leaf=0.1, random_state=4284
        )
        model.fit(train[LAGS], train["up"])
        mlflow.sklearn.log_model(
            model,
            name="model",
            input_example=train[LAGS].head(),
            serialization_format="skops",
            skops_trusted_types=["sklearn.tree._tree.Tree"],
            pip_requirements=["scikit-learn", "skops"],
        )
        predictions = test[["ticker", "session", "up"]].assign(
            probability=model.predict_proba(test[LAGS])[:, 1]
        )
        write(spark.createDataFrame(predictions), "test_scores")


if __name__ == "__main__":
    *quick, folder = sys.argv[1:]
    main(Path(folder), trees=10 if quick == ["--quick"] else 1000)
