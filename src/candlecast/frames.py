"""From Spark and Arrow to pandas, what a frame of windows covers, a date per ticker."""

import ctypes
import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

logger = logging.getLogger(__name__)

pd.options.mode.copy_on_write = True  # as in pandas 3: large frames share what did not change

AT_ONCE = 250_000
"""Rows that are collected at once, at least. Of many more it is an eighth, at most `MOST`."""

MOST = 1_000_000
"""Rows that are collected at once, at most: Spark refuses to send more than a gigabyte."""


@dataclass(frozen=True)
class Addition:
    """Rows that a save adds to those of a table, which stay as they are."""

    rows: "DataFrame"


def release_memory() -> None:
    """Give memory that is no longer used back to the system, which Arrow and glibc keep."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # others have none
    if trim:
        trim(0)


def as_pandas(table: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as a pandas frame, and give its memory back: it can't be used again.

    Dates become datetime64, where Spark's own ``toPandas`` makes Python objects of them.
    """
    frame: pd.DataFrame = table.to_pandas(date_as_object=False, self_destruct=True)
    release_memory()
    return frame


def to_pandas(frame: "DataFrame", rows: int = 0) -> pd.DataFrame:
    """Collect a Spark frame by Arrow, whatever the session's settings are.

    Args:
        frame: any; if it has many rows, one per ticker and session.
        rows: how many it has, where that may be many. These are collected one range of sessions
            after the other, in their order, with all float32 columns in one block of memory.
    """
    if rows <= AT_ONCE:
        return as_pandas(frame.toArrow())
    from pyspark.sql import functions as F

    counts = to_pandas(frame.groupBy("session").count().orderBy("session"))
    total, done = int(counts["count"].sum()), 0
    floats = [name for name, kind in frame.dtypes if kind == "float"]
    block = np.empty((len(floats), total), dtype=np.float32)
    columns: dict[str, Any] = dict(zip(floats, block, strict=True))
    at_once = min(MOST, max(AT_ONCE, total // 8))
    for _, dates in counts.groupby(counts["count"].cumsum() // at_once)["session"]:
        ends = (F.lit(date.date()) for date in (dates.iloc[0], dates.iloc[-1]))
        part = to_pandas(frame.where(F.col("session").between(*ends)))
        part = part.sort_values(["session", "ticker"])
        for name, values in part.items():
            column = columns.setdefault(str(name), np.empty(total, values.to_numpy().dtype))
            if values.dtype != column.dtype:  # a part without a value has another one
                kind = np.promote_types(column.dtype, values.to_numpy().dtype)
                column = columns[str(name)] = column.astype(kind)
            column[done : done + len(part)] = values
        done += len(part)
    whole = pd.DataFrame(block.T, columns=floats, copy=False)
    for place, name in enumerate(frame.columns):
        if name not in floats:
            whole.insert(place, name, columns.pop(name))
    return whole


def join_dates(frame: "DataFrame", name: str, dates: Mapping[str, dt.date]) -> "DataFrame":
    """Add the date of each ticker as the column `name`; rows of other tickers are left out."""
    from pyspark.sql import functions as F

    columns = [pa.array([*dates], pa.string()), pa.array([*dates.values()], pa.date32())]
    rows = pa.table(columns, ["ticker", name])
    # Without a schema Spark Connect refuses a table without rows.
    by_ticker = frame.sparkSession.createDataFrame(rows, f"ticker STRING, {name} DATE")
    return frame.join(F.broadcast(by_ticker), "ticker")


def extent(frame: pd.DataFrame) -> dict[str, Any]:
    """Return ``tickers``, ``first`` and ``last`` session, ``sessions``, ``rows``, ``share_up``."""
    return {
        "tickers": sorted(frame["ticker"].unique()),
        "first": f"{frame['session'].min():%Y-%m-%d}",
        "last": f"{frame['session'].max():%Y-%m-%d}",
        "sessions": frame["session"].nunique(),
        "rows": len(frame),
        "share_up": float(frame["up"].mean()),
    }


def sample_rows(frame: "DataFrame", rows: int, most: int, seed: int) -> "DataFrame":
    """Sample about `most` of the rows of a Spark frame, if it has more; log that.

    Whether a row is in the sample depends on its ticker, its session and the seed alone.
    """
    from pyspark.sql import functions as F

    if rows <= most:
        return frame
    logger.warning("  a sample of %s of %s rows (max_training_rows)", f"{most:,}", f"{rows:,}")
    place = F.pmod(F.xxhash64("ticker", "session", F.lit(seed)), F.lit(2**31))
    return frame.where(place < F.lit(most / rows * 2**31))
