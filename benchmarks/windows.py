"""Compare windows on Spark with polars, on made-up prices: ``python benchmarks/windows.py``.

Spark reads a Delta table of prices and writes the windows to another one, as the node of a run
does; polars reads the table's Parquet files, makes the same rows and columns, and writes one
Parquet file. Both have made the windows of a few tickers before, so that they are warm. polars is
not among the locked packages: ``pip install polars``.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import candlecast

candlecast.silence_third_party()

import yaml  # noqa: E402
from pyspark.sql import DataFrame, SparkSession  # noqa: E402
from pyspark.sql import functions as F  # noqa: E402

from candlecast.features.definitions import lag_columns  # noqa: E402
from candlecast.features.windows import make_windows  # noqa: E402
from candlecast.io.delta import DeltaDataset  # noqa: E402
from candlecast.io.spark import sessions  # noqa: E402
from candlecast.runtime.spark import start_session  # noqa: E402

ROOT = Path(__file__).parents[1]
WINDOW = 14
SEED = 4284
TARGET = 4.0
"""The target: so many times the seconds of polars."""


def make_prices(spark: SparkSession, tickers: int, years: int) -> DataFrame:
    """Make random prices: one row per ticker and session, 252 sessions per year."""
    days = years * 252
    rows = spark.range(tickers * days)
    number = (F.col("id") / days).cast("int")
    opened = 100 + F.rand(SEED)
    return rows.select(
        F.format_string("T%04d", number).alias("ticker"),
        F.date_add(F.lit("2000-01-03"), (F.col("id") % days).cast("int")).alias("session"),
        opened.alias("open"),
        (100 + F.rand(SEED + 1)).alias("close"),
    )


def time_spark(prices: DeltaDataset, windows: DeltaDataset) -> float:
    """Return the seconds from a table to a table."""
    since = time.perf_counter()
    windows.save(make_windows(prices.load(), WINDOW, "return"))
    return time.perf_counter() - since


def time_polars(prices: str, file: str) -> tuple[float, int]:
    """Return the seconds from files to a file, and the rows written; NaN without polars."""
    try:
        import polars as pl
    except ImportError:
        return float("nan"), 0
    since = time.perf_counter()
    rows: Any = pl.scan_parquet(f"{prices}/*.parquet").sort("ticker", "session")
    body, up = pl.col("close") / pl.col("open") - 1, pl.col("close") > pl.col("open")
    rows = rows.select(
        "ticker",
        "session",
        *(
            body.shift(lag).over("ticker").cast(pl.Float32).alias(name)
            for lag, name in enumerate(lag_columns(WINDOW), start=1)
        ),
        up.cast(pl.Int8).alias("up"),
        body.alias("body"),
        body.alias("return_"),
        up.cast(pl.Int8).shift(1).over("ticker").alias("previous_up"),
    )
    made = rows.drop_nulls().collect()
    made.write_parquet(file, compression="snappy")
    return time.perf_counter() - since, made.height


def compare(tickers: int, years: int, folder: str) -> dict[str, float]:
    """Return the seconds of both for a market, and what they wrote."""
    prices, windows = (
        DeltaDataset(table=f"{folder}/{name}-{tickers}", keys="ticker,session")
        for name in ("prices", "windows")
    )
    prices.save(make_prices(sessions.get(), tickers, years))
    spark = time_spark(prices, windows)
    polars, rows = time_polars(prices.address, f"{folder}/windows.parquet")
    assert windows.commit
    assert not rows or rows == windows.commit.rows
    return {"tickers": tickers, "rows": windows.commit.rows or 0, "spark": spark, "polars": polars}


def main() -> None:
    """Time both; print seconds and ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickers", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="5 tickers, 2 years")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    if given.quick:
        given.tickers, given.years = [5], 2
    settings = yaml.safe_load((ROOT / "conf/base/spark.yml").read_text())
    if max(given.tickers) > 50:
        settings["session"].update(settings["market"])
    with TemporaryDirectory() as folder:
        sessions.start = lambda: start_session(settings["session"], Path(folder, "spark"))
        compare(6, given.years, folder)
        results = [compare(tickers, given.years, folder) for tickers in given.tickers]
        sessions.get().stop()
    sys.stdout.write(f"windows of {WINDOW} lags over {given.years} years, table to table\n")
    for each in results:
        sys.stdout.write(
            f"  {each['tickers']:5.0f} tickers, {each['rows']:12,.0f} rows: "
            f"{each['spark']:6.1f} s, polars {each['polars']:5.1f} s, "
            f"{each['spark'] / each['polars']:4.1f} times (at most {TARGET:g})\n"
        )
    if given.json:
        given.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
