"""From Spark and Arrow to pandas."""

from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def to_pandas(frame: "DataFrame") -> pd.DataFrame:
    """Collect a Spark frame by Arrow, whatever the session's settings are."""
    return as_pandas(frame.toArrow())


def as_pandas(table: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as a pandas frame.

    Dates become datetime64, where Spark's own ``toPandas`` makes Python objects of them.
    """
    frame: pd.DataFrame = table.to_pandas(date_as_object=False)
    return frame
