"""Compare windows on Spark with polars, on made-up prices: ``python benchmarks/windows.py``.

Spark reads a Delta table of prices and writes the windows to another one, as the node of a run
does; polars reads the table's Parquet files, makes the same rows and columns, and writes one
Parquet file. Both have made the windows of a few tickers before, so that they are warm.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import candlecast

candlecast.silence_third_party()

import polars as pl  # noqa: E402
import yaml  # noqa: E402
from figures import emit  # noqa: E402
from market import make_market  # noqa: E402

from candlecast.features.definitions import lag_columns  # noqa: E402
from candlecast.features.windows import make_windows  # noqa: E402
from candlecast.io.delta import DeltaDataset  # noqa: E402
from candlecast.io.spark import sessions  # noqa: E402
from candlecast.runtime.spark import start_session  # noqa: E402

ROOT = Path(__file__).parents[1]
WINDOW = 14
AIM = 0.25
"""Of the ratio: at most four times the seconds of polars."""


def time_spark(prices: DeltaDataset, windows: DeltaDataset) -> float:
    """Return the seconds from a table to a table."""
    since = time.perf_counter()
    windows.save(make_windows(prices.load(), WINDOW, "return"))
    return time.perf_counter() - since


def time_polars(prices: str, file: str) -> tuple[float, int]:
    """Return the seconds from files to a file, and the rows written."""
    since = time.perf_counter()
    rows = pl.scan_parquet(f"{prices}/*.parquet").sort("ticker", "session")
    body = (pl.col("close") / pl.col("open") - 1).fill_nan(None)
    up = (pl.col("close") > pl.col("open")).cast(pl.Int8)
    made = rows.select(
        "ticker",
        "session",
        *(
            body.shift(lag).over("ticker").cast(pl.Float32).alias(name)
            for lag, name in enumerate(lag_columns(WINDOW), start=1)
        ),
        up.alias("up"),
        body.alias("body"),
        body.alias("return_"),
        up.shift(1).over("ticker").alias("previous_up"),
    )
    whole = made.drop_nulls().collect()
    whole.write_parquet(file, compression="snappy")
    return time.perf_counter() - since, whole.height


def compare(tickers: int, years: int, folder: str) -> tuple[float, float]:
    """Return the seconds of both for a market."""
    prices, windows = (
        DeltaDataset(table=f"{folder}/{name}-{tickers}", keys="ticker,session")
        for name in ("prices", "windows")
    )
    prices.save(make_market(sessions.get(), tickers, years))
    spark = time_spark(prices, windows)
    polars, rows = time_polars(prices.address, f"{folder}/windows.parquet")
    assert windows.commit
    assert windows.commit.rows == rows
    return spark, polars


def main() -> None:
    """Time both; print seconds and ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickers", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="5 tickers, 2 years, not warm")
    given = parser.parse_args()
    if given.quick:
        given.tickers, given.years = [5], 2
    settings = yaml.safe_load((ROOT / "conf/base/spark.yml").read_text())
    settings["session"].update(settings["market"])
    with TemporaryDirectory() as folder:
        sessions.start = lambda: start_session(settings["session"], Path(folder, "spark"))
        if not given.quick:
            compare(6, given.years, folder)
        for tickers in given.tickers:
            spark, polars = compare(tickers, given.years, folder)
            title = f"windows of {tickers} tickers, {given.years} years"
            why = "Spark reads and writes Delta with a commit, by Java objects; polars by columns."
            emit(title, spark, "polars, Parquet", polars, aim=AIM, why=why)
        sessions.get().stop()


if __name__ == "__main__":
    main()
