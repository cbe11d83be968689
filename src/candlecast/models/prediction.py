"""Prediction on Spark: where the rows are, in Arrow batches, without bringing them to the driver.

Nothing here needs more than a DataFrame, so that it runs on Spark Connect as well. The workers
import this package.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.types import DoubleType, StructField, StructType
from sklearn.ensemble import RandomForestClassifier

from candlecast.errors import PredictionError
from candlecast.models.forests import predict_matrix


def predict_windows(
    forest: RandomForestClassifier, windows: DataFrame, features: Sequence[str]
) -> DataFrame:
    """Predict every row of a Spark frame.

    Args:
        forest: the fitted forest. It travels to the workers once, with the function.
        windows: with the columns `features`, in any order and among others, which are passed on.
        features: the forest's input columns, in its order.

    Returns:
        The rows and columns of `windows` and ``probability``: P(up), equal to what scikit-learn's
        ``predict_proba`` gives on the same rows in float32. A worker refuses a row with a feature
        that is missing or not finite, and the job fails.

    Raises:
        PredictionError: a column is missing, or there is one with the name ``probability``.
    """
    if missing := [name for name in features if name not in windows.columns]:
        came = ", ".join(windows.columns)
        raise PredictionError(f"{', '.join(missing)} missing; the columns are {came}", missing)
    if "probability" in windows.columns:
        raise PredictionError("they have a column 'probability' already", ["probability"])
    names, sizes = list(features), [len(forest.estimators_)]

    def predict(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            [probability] = predict_matrix(forest, matrix_of(batch, names), sizes)
            yield batch.append_column("probability", pa.array(probability))

    schema = StructType([*windows.schema.fields, StructField("probability", DoubleType())])
    return windows.mapInArrow(predict, schema)


def matrix_of(batch: pa.RecordBatch, features: Sequence[str]) -> np.ndarray:
    """Make the float32 matrix that a forest takes: one row per row, one column per feature.

    Raises:
        PredictionError: a feature is missing or not finite.
    """
    columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in features]
    matrix = np.column_stack(columns).astype(np.float32)
    finite = np.isfinite(matrix)
    if not finite.all():
        wrong = [name for place, name in enumerate(features) if not finite[:, place].all()]
        rows = len(matrix) - int(finite.all(axis=1).sum())
        raise PredictionError(
            f"{', '.join(wrong)} missing or not finite in {rows} of {len(matrix)} rows", wrong
        )
    return matrix
