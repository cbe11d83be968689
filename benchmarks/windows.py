"""Compare windows on Spark with polars, on made-up prices: ``python benchmarks/windows.py``.

Spark reads a Delta table of prices and writes the windows to another one, as the node of a run
does; polars reads the table's Parquet files, makes the same rows and columns, and writes one
Parquet file. Both have made the windows of a few tickers before, so that they are warm.
"""

import argparse
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import candlecast

candlecast.silence_third_party()

import polars as pl  # noqa: E402
from figures import ROUNDS, Figure, Times, compare, in_turn, start_spark  # noqa: E402
from market import make_market  # noqa: E402

from candlecast.features.definitions import lag_columns  # noqa: E402
from candlecast.features.windows import make_windows  # noqa: E402
from candlecast.io.delta import DeltaDataset  # noqa: E402
from candlecast.io.spark import sessions  # noqa: E402

WINDOW = 14
PEER = "polars, Parquet"
AIM = 0.25
"""Of the ratio: at most four times the seconds of polars."""


def time_spark(prices: DeltaDataset, windows: DeltaDataset) -> float:
    """Return the seconds from a table to a table."""
    since = time.perf_counter()
    windows.save(make_windows(prices.load(), WINDOW, "return"))
    return time.perf_counter() - since


def time_polars(prices: str, file: str) -> float:
    """Return the seconds from files to a file."""
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
    made.drop_nulls().collect().write_parquet(file, compression="snappy")
    return time.perf_counter() - since


def time_both(tickers: int, years: int, folder: str, rounds: int) -> Times:
    """Return the seconds of both for a market."""
    prices, windows = (
        DeltaDataset(table=f"{folder}/{name}-{tickers}", keys="ticker,session")
        for name in ("prices", "windows")
    )
    prices.save(make_market(sessions.get(), tickers, years))
    times = in_turn(
        {
            PEER: lambda: time_polars(prices.address, f"{folder}/windows.parquet"),
            "candlecast, Delta": lambda: time_spark(prices, windows),
        },
        rounds,
    )
    assert windows.commit
    assert windows.commit.rows == pl.scan_parquet(f"{folder}/windows.parquet").collect().height
    return times


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Time both, print their seconds and return the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickers", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="5 tickers, 2 years, one round")
    given = parser.parse_args(arguments)
    if given.quick:
        given.tickers, given.years = [5], 2
    figures = []
    with TemporaryDirectory() as folder:
        sessions.start = start_spark
        if not given.quick:
            time_both(6, given.years, folder, rounds=1)
        for tickers in given.tickers:
            times = time_both(tickers, given.years, folder, 1 if given.quick else ROUNDS)
            title = f"windows of {tickers} tickers, {given.years} years"
            why = "Spark reads and writes Delta with a commit, by Java objects; polars by columns."
            figures += compare(title, times, [PEER], aims=[AIM], why=why)
    return figures


if __name__ == "__main__":
    main()
