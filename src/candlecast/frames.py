"""From Spark to pandas."""

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def to_pandas(frame: "DataFrame") -> pd.DataFrame:
    """Collect a Spark frame by Arrow, whatever the session's settings are.

    Dates become datetime64, where Spark's own ``toPandas`` makes Python objects of them.
    """
    collected: pd.DataFrame = frame.toArrow().to_pandas(date_as_object=False)
    return collected
