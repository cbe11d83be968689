"""Compare windows on Spark with polars, on made-up prices: ``python benchmarks/windows.py``.

Spark reads a Delta table of prices and writes the windows to another one, as the node of a run
does. polars reads the same table and makes the same rows and columns; it writes them to a Delta
table (by delta-rs, with statistics for the same columns), and to a Parquet file. All have made the
windows of a few tickers before, so that they are warm.
"""

import argparse
import time
from collections.abc import Callable, Sequence
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
TABLE, FILE = PEERS = ("polars, Delta to Delta", "polars, Delta to Parquet")
AIM = 0.25
"""Of the ratio to the first: at most four times the seconds of polars from table to table."""
KEYS = "ticker,session"
"""The columns with statistics."""


def time_spark(prices: DeltaDataset, windows: DeltaDataset) -> float:
    """Return the seconds from a table to a table."""
    since = time.perf_counter()
    windows.save(make_windows(prices.load(), WINDOW, "return"))
    return time.perf_counter() - since


def time_polars(prices: str, write: Callable[[pl.DataFrame], object]) -> float:
    """Return the seconds from a table until the windows are written."""
    since = time.perf_counter()
    rows = pl.scan_delta(prices).sort("ticker", "session")
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
    write(made.drop_nulls().collect())
    return time.perf_counter() - since


def time_all(tickers: int, years: int, folder: str, rounds: int) -> Times:
    """Return the seconds of all for a market."""
    prices, windows = (
        DeltaDataset(table=f"{folder}/{name}-{tickers}", keys=KEYS)
        for name in ("prices", "windows")
    )
    table, file = f"{folder}/polars-{tickers}", f"{folder}/polars-{tickers}.parquet"
    options = {"configuration": {"delta.dataSkippingStatsColumns": KEYS}}
    prices.save(make_market(sessions.get(), tickers, years))
    times = in_turn(
        {
            TABLE: lambda: time_polars(
                prices.address,
                lambda made: made.write_delta(table, mode="overwrite", delta_write_options=options),
            ),
            FILE: lambda: time_polars(
                prices.address, lambda made: made.write_parquet(file, compression="snappy")
            ),
            "candlecast, Delta": lambda: time_spark(prices, windows),
        },
        rounds,
    )
    assert windows.commit
    for made in (pl.scan_delta(table), pl.scan_parquet(file)):
        assert windows.commit.rows == made.select(pl.len()).collect().item()
    return times


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Time all, print their seconds and return the figures."""
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
            time_all(6, given.years, folder, rounds=1)
        for tickers in given.tickers:
            times = time_all(tickers, given.years, folder, 1 if given.quick else ROUNDS)
            title = f"windows of {tickers} tickers, {given.years} years"
            why = "Spark computes and writes row by row, polars and delta-rs by columns."
            figures += compare(title, times, PEERS, aims=[AIM, None], why=why)
    return figures


if __name__ == "__main__":
    main()
