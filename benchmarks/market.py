"""Run the default pipelines on a made-up market: ``python benchmarks/market.py --tickers 500``.

Spark writes the market's prices as Parquet, from a seed: the sessions of the New York Stock
Exchange, tickers that move together, with splits, late listings and gaps. With ``--signal 0.1`` the
bodies of the two sessions before have a weight of 0.1 and 0.05 in each body; without it nothing can
be predicted. Then ``kedro run --env table`` runs on them. The output is the run's own log, the
seconds of the whole, and the peak memory of Python and of Java.
"""

import argparse
import contextlib
import datetime as dt
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import candlecast

candlecast.silence_third_party()

import exchange_calendars  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
from figures import KEDRO, ROOT, Figure, start_spark  # noqa: E402
from pyspark import SparkContext, cloudpickle  # noqa: E402
from pyspark.sql import DataFrame, SparkSession  # noqa: E402
from scipy.signal import lfilter  # noqa: E402

from candlecast.runtime.spark import stop_java  # noqa: E402

FACTS = ("Name", "PPid", "VmHWM")
SEED = 4284
LAST = dt.date(2025, 12, 31)
SCHEMA = (
    "ticker STRING, session DATE, open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, "
    "adj_close DOUBLE, volume DOUBLE, dividends DOUBLE, stock_splits DOUBLE"
)


def make_market(
    spark: SparkSession, tickers: int, years: int, signal: float = 0.0, seed: int = SEED
) -> DataFrame:
    """Make the prices of a market: one row per ticker and session, with the columns of `SCHEMA`.

    A ticker's prices depend on `seed` and its number alone, so a market is a part of each larger
    one of the same years. One ticker in four is listed late, one in three has splits, and each
    lacks some sessions and a few opens.
    """
    first = LAST.replace(year=LAST.year - years)
    calendar = exchange_calendars.get_calendar("XNYS", start=first, end=LAST)
    sessions = calendar.sessions.to_numpy().astype("datetime64[D]")
    together = np.random.default_rng(seed).standard_normal(len(sessions)).astype(np.float32)

    # Spark's workers know no module of this folder.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]

    def make(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                rows = make_ticker(number, sessions, together, signal, seed)
                yield pa.RecordBatch.from_pandas(rows, preserve_index=False)

    parts = max(2, tickers // 50)
    return spark.range(0, tickers, 1, parts).mapInArrow(make, SCHEMA)


def make_ticker(
    number: int, sessions: np.ndarray, together: np.ndarray, signal: float, seed: int
) -> pd.DataFrame:
    """Make the sessions of one ticker; `together` is what moves all, one value per session."""
    random, count = np.random.default_rng([seed, number]), len(sessions)
    noise = 0.5 * together + random.standard_normal(count)
    body = random.uniform(0.008, 0.02) * lfilter([1.0], [1.0, -signal, -signal / 2], noise)
    night = random.normal(0.0003, 0.004, count)
    close = random.uniform(10, 200) * np.exp(np.cumsum(body + night - 0.0001))
    opened = close / np.exp(body)
    reach = np.abs(random.normal(0, 0.004, (2, count)))
    splits = np.zeros(count)
    if number % 3 == 0:
        splits[random.integers(0, count, 2)] = 2.0
    rows = pd.DataFrame(
        {
            "ticker": f"T{number:04d}",
            "session": sessions.astype("datetime64[s]"),
            "open": opened,
            "high": np.maximum(opened, close) * (1 + reach[0]),
            "low": np.minimum(opened, close) * (1 - reach[1]),
            "close": close,
            "adj_close": close,
            "volume": np.round(random.lognormal(13, 0.5, count)),
            "dividends": 0.0,
            "stock_splits": splits,
        }
    ).astype({"session": "date32[pyarrow]"})
    rows.loc[random.integers(0, count, count // 1000), "open"] = np.nan
    kept = random.random(count) > 0.001
    if number % 4 == 0:
        kept[: random.integers(0, count // 2)] = False
    return rows[kept]


def write_market(folder: str, tickers: int, years: int, signal: float = 0.0) -> None:
    """Write a market's prices as Parquet."""
    spark = start_spark()
    make_market(spark, tickers, years, signal).write.parquet(folder)
    spark.stop()
    stop_java()  # the run has its own
    SparkContext._gateway = SparkContext._jvm = None  # a later benchmark starts another one


def peak_memory() -> dict[str, float]:
    """Return the peak memory of this process's children in MB, by command; empty without /proc."""
    peaks: dict[str, float] = {}
    own, parents = os.getpid(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):  # the process has ended
            status = (folder / "status").read_text()
            found = {name: re.findall(rf"^{name}:\s+(\S+)", status, re.M)[0] for name in FACTS}
            parents[int(folder.name)] = int(found["PPid"]), found["Name"], int(found["VmHWM"])
    for parent, name, peak in parents.values():
        ancestor = parent
        while ancestor != own and ancestor in parents:
            ancestor = parents[ancestor][0]
        if ancestor == own and name.startswith(("kedro", "java", "python")):
            peaks[name] = max(peaks.get(name, 0.0), peak / 1024)
    return peaks


def run(prices: str, data_root: str, parameters: str) -> tuple[float, dict[str, float]]:
    """Run the default pipelines; return the seconds, and the peak memory in MB by process."""
    given = ",".join(filter(None, [f"prices={prices}", f"data_root={data_root}", parameters]))
    since, peaks = time.perf_counter(), dict[str, float]()
    process = subprocess.Popen([KEDRO, "run", "--env", "table", "--params", given], cwd=ROOT)
    while process.poll() is None:
        for name, peak in peak_memory().items():
            peaks[name] = max(peak, peaks.get(name, 0.0))
        time.sleep(0.5)
    if process.returncode:
        sys.exit(process.returncode)
    return time.perf_counter() - since, peaks


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Make a market, run the pipelines on it and print what that took; there is no peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickers", type=int, default=500)
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--signal", type=float, default=0.0)
    parser.add_argument("--folder", help="keep prices and tables here; its prices are used again")
    parser.add_argument("--params", default="", help="further parameters of the run")
    parser.add_argument("--quick", action="store_true", help="3 tickers, 3 years, 5 trees, 2 folds")
    given = parser.parse_args(arguments)
    if given.quick:
        given.tickers, given.years = 3, 3
        given.params = "estimators=forest_5,folds=2,evaluation.repetitions=1000"
    with TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary).resolve()
        prices = folder / f"market-{given.tickers}-{given.years}-{given.signal}"
        if not (prices / "_SUCCESS").exists():
            write_market(str(prices), given.tickers, given.years, given.signal)
        seconds, peaks = run(str(prices), str(folder / "root"), given.params)
    memory = ", ".join(f"{name} {peak:,.0f} MB" for name, peak in sorted(peaks.items()))
    sys.stdout.write(
        f"default pipelines on {given.tickers:,} tickers, {given.years} years\n"
        f"  {seconds:.0f} s; peak memory per process: {memory}\n"
    )
    return []


if __name__ == "__main__":
    main()
