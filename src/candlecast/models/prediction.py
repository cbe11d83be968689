"""Scoring on Spark: where the rows are, in Arrow batches, without bringing them to the driver.

Nothing here needs more than a DataFrame, so that it runs on Spark Connect as well. The workers
import this package.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.types import DoubleType, StructField, StructType
from sklearn.ensemble import RandomForestClassifier

from candlecast.errors import CandlecastError
from candlecast.models.forests import probability_of_up

BATCH_ROWS = 100_000
"""Rows scored at once: Spark's own batches of 10,000 are put together."""


class PredictionError(CandlecastError):
    """Rows that a forest can't be asked about; nothing is filled in for them."""


def predict_windows(
    forest: RandomForestClassifier, frame: DataFrame, lags: Sequence[str]
) -> DataFrame:
    """Score every row of a Spark frame.

    Args:
        forest: the fitted forest. It travels to the workers once, with the function.
        frame: with the columns `lags`, in any order and among others, which are passed on.
        lags: the forest's input columns, in its order.

    Returns:
        The rows and columns of `frame` and ``probability``: P(up), equal to what scikit-learn's
        ``predict_proba`` gives on the same rows in float32. A worker refuses a row with a lag that
        is missing or not finite, and the job fails.

    Raises:
        PredictionError: a column is missing, or there is one of the name ``probability``.
    """
    if absent := [name for name in lags if name not in frame.columns]:
        raise PredictionError(
            f"The forest needs the columns {', '.join(lags)}; missing: {', '.join(absent)}. What "
            f"came: {', '.join(frame.columns)}. To go on, make windows as it was trained on."
        )
    if "probability" in frame.columns:
        raise PredictionError("The rows have a column 'probability' already: score others.")
    names = list(lags)

    def predict(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in combined(batches, BATCH_ROWS):
            probability = pa.array(probability_of_up(forest, lags_of(table, names)))
            yield from table.append_column("probability", probability).to_batches()

    scored = StructType([*frame.schema.fields, StructField("probability", DoubleType())])
    return frame.mapInArrow(predict, scored)


def combined(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Put batches together to tables of at least so many rows, the last one of what is left."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(part.num_rows for part in waiting) >= rows:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if any(part.num_rows for part in waiting):
        yield pa.Table.from_batches(waiting)


def lags_of(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Make the matrix that a forest takes: one row per row of `table`, one column per lag, float32.

    Raises:
        PredictionError: a lag is missing or not finite.
    """
    matrix = np.empty((table.num_rows, len(names)), dtype=np.float32)
    for place, name in enumerate(names):
        matrix[:, place] = table.column(name).to_numpy()
        if wrong := int((~np.isfinite(matrix[:, place])).sum()):
            raise PredictionError(
                f"{name} is missing or not finite in {wrong} of {table.num_rows} rows. Scores are "
                "not made up: leave these rows out, or find out why they came."
            )
    return matrix
