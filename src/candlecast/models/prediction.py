"""Prediction on Spark: on the workers, in Arrow batches, without bringing rows to the driver.

Only DataFrames are used, so that it runs on Spark Connect as well. The workers import this package.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.types import DoubleType, StructField, StructType

from candlecast.errors import PredictionError
from candlecast.models.estimators import predict_rows


def predict_windows(model: Any, windows: DataFrame, features: Sequence[str]) -> DataFrame:
    """Predict every row of a Spark frame.

    Each task has one thread.

    Args:
        model: the fitted classifier; it is sent to the workers once.
        windows: with the columns `features`, in any order, and any others.
        features: the model's input columns, in its order.

    Returns:
        `windows` with ``probability``: P(up), equal to scikit-learn's ``predict_proba`` of the same
        rows in float32. The job fails if a feature is missing or not finite in any row.

    Raises:
        PredictionError: a column is missing, or ``probability`` is there already.
    """
    columns = windows.columns
    if missing := [name for name in features if name not in columns]:
        problem = f"{', '.join(missing)} missing; the columns are {', '.join(columns)}"
        raise PredictionError(problem, missing)
    if "probability" in columns:
        raise PredictionError("they have a column 'probability' already", ["probability"])
    names = list(features)

    def predict(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            probability = predict_rows(model, _inputs(batch, names))
            yield batch.append_column("probability", pa.array(probability))

    schema = StructType([*windows.schema.fields, StructField("probability", DoubleType())])
    return windows.mapInArrow(predict, schema)


def _inputs(batch: pa.RecordBatch, features: Sequence[str]) -> pd.DataFrame:
    """Return the columns `features` as float32; raise if a value is missing or not finite."""
    columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in features]
    matrix = np.column_stack(columns).astype(np.float32)
    finite = np.isfinite(matrix)
    if not finite.all():
        wrong = [name for place, name in enumerate(features) if not finite[:, place].all()]
        rows = len(matrix) - int(finite.all(axis=1).sum())
        raise PredictionError(
            f"{', '.join(wrong)} missing or not finite in {rows} of {len(matrix)} rows", wrong
        )
    return pd.DataFrame(matrix, columns=list(features))
