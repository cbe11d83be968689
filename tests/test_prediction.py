"""Prediction on Spark against scikit-learn's own probabilities on the same rows."""

import numpy as np
import pandas as pd
import pytest
from pyspark.errors import PythonException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.ensemble import RandomForestClassifier

from candlecast.errors import PredictionError
from candlecast.features.definitions import lag_columns
from candlecast.models.estimators import fit, make_estimators, predict
from candlecast.models.prediction import predict_windows

LAGS = lag_columns(14)


def rows(count: int, seed: int = 1) -> pd.DataFrame:
    """Random windows, lags oldest first, with a key and a text among them."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 0.02, (count, len(LAGS))).astype(np.float32)
    frame = pd.DataFrame(values, columns=LAGS)[sorted(LAGS, reverse=True)]
    frame.insert(3, "text", [f"row {n}" for n in range(count)])
    return frame.assign(key=np.arange(count))


@pytest.fixture(scope="module")
def forest() -> RandomForestClassifier:
    frame = rows(3000, seed=2)
    up = (frame["lag_01"] + np.random.default_rng(3).normal(0, 0.02, 3000) > 0).astype(int)
    forest = RandomForestClassifier(30, min_weight_fraction_leaf=0.01, random_state=4284)
    return forest.fit(frame[LAGS], up)


def predicted(forest, frame, spark: SparkSession, parts: int = 3) -> pd.DataFrame:
    windows = spark.createDataFrame(frame).repartition(parts)
    return predict_windows(forest, windows, LAGS).toPandas().sort_values("key", ignore_index=True)


def test_probabilities_are_those_of_scikit_learn_and_other_columns_pass(forest, spark):
    frame = rows(25_000)
    found = predicted(forest, frame, spark)
    expected = forest.predict_proba(frame[LAGS])[:, 1]
    assert np.abs(found["probability"] - expected).max() <= 1e-12
    assert len(np.unique(expected)) > 1000
    pd.testing.assert_frame_equal(found.drop(columns="probability"), frame)


def test_lags_in_float64_are_predicted_as_float32(forest, spark):
    frame = rows(500)
    wide = frame.assign(**{name: frame[name].astype(np.float64) for name in LAGS})
    found = predicted(forest, wide, spark)
    assert np.abs(found["probability"] - forest.predict_proba(frame[LAGS])[:, 1]).max() <= 1e-12


@pytest.mark.parametrize("kind", ["logistic", "boosting"])
def test_other_estimators_predict_the_same_on_spark_and_in_this_process(kind, spark):
    frame = rows(500)
    up = (frame["lag_01"] + np.random.default_rng(3).normal(0, 0.02, 500) > 0).astype(int)
    train = frame.assign(ticker="A", session=frame["key"], up=up)
    [estimator] = make_estimators([kind], 0.1, 1000, 4284).values()
    model = fit(estimator, train[["ticker", "session", "up", *LAGS]])
    found = predicted(model, frame, spark)
    assert np.abs(found["probability"] - predict(model, frame)).max() <= 1e-12
    assert found["probability"].nunique() > 50


def test_no_rows_give_no_rows(forest, spark):
    empty = spark.createDataFrame(rows(3)).where(F.col("key") < 0)
    found = predict_windows(forest, empty, LAGS)
    assert found.columns == [*empty.columns, "probability"]
    assert found.collect() == []


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_missing_or_infinite_lag_is_refused(forest, spark, value):
    odd = F.when(F.col("key") == 7, F.lit(value)).otherwise(F.col("lag_03")).cast("float")
    frame = spark.createDataFrame(rows(20)).withColumn("lag_03", odd)
    with pytest.raises(PythonException, match=r"PredictionError: .*lag_03.* 1 of"):
        predict_windows(forest, frame, LAGS).collect()


def test_fault_29_a_missing_column_is_named(forest, spark):
    frame = spark.createDataFrame(rows(3)).withColumnRenamed("lag_03", "Lag_3")
    with pytest.raises(PredictionError, match="Lag_3") as error:
        predict_windows(forest, frame, LAGS)
    assert error.value.columns == ["lag_03"]
    with pytest.raises(PredictionError) as error:
        predict_windows(forest, frame.selectExpr("*", "0.5 AS probability"), [])
    assert error.value.columns == ["probability"]


def test_a_forest_that_saw_one_class_only(spark):
    frame = rows(10)
    for label, probability in ((0, 0.0), (1, 1.0)):
        forest = RandomForestClassifier(3, random_state=1).fit(frame[LAGS], np.full(10, label))
        assert predicted(forest, frame, spark)["probability"].tolist() == [probability] * 10
