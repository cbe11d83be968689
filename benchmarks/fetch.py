"""Measure what fetching costs in addition to the client: ``python benchmarks/fetch.py [--quick]``.

It fetches twenty years of 500 tickers from a loopback Yahoo server in its own process, with the
real yfinance client, the node that fetches and checks, and the dataset with one file per ticker.
"""

import argparse
import functools
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import candlecast

candlecast.silence_third_party()

import pandas as pd  # noqa: E402
import yaml  # noqa: E402
import yfinance  # noqa: E402
from figures import ROOT, ROUNDS, Figure, compare  # noqa: E402
from kedro.io import AbstractDataset, DataCatalog, MemoryDataset  # noqa: E402
from kedro.runner import SequentialRunner  # noqa: E402

from candlecast.io.files import FetchedFiles  # noqa: E402
from candlecast.io.prices import PriceSource  # noqa: E402
from candlecast.pipelines.data_engineering import create_pipeline  # noqa: E402

sys.path.insert(0, str(ROOT / "tests"))
from yahoo_server import redirected  # noqa: E402

NODE = "fetch_prices"
HISTORY = yfinance.Ticker.history


class Clock:
    """Adds up the seconds spent in a function; records the peak memory at some of its calls."""

    def __init__(self, function: Any, at: set[int]) -> None:
        self.function, self.at = function, at
        self.seconds, self.calls, self.peaks = 0.0, 0, dict[int, float]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        if self.calls in self.at:
            self.peaks[self.calls] = peak()
        self.calls += 1
        since = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - since


def peak() -> float:
    """Return the peak memory of this process in MB."""
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def fetch(tickers: int, folder: Path, cache: Path) -> tuple[float, Clock, int]:
    """Fetch tickers as a run does; return total seconds, the client's clock and rows per ticker."""
    parameters = yaml.safe_load((ROOT / "conf/base/parameters.yml").read_text())
    requested = [f"T{n:03d}" for n in range(tickers)]
    parameters |= {"tickers": requested}
    node = create_pipeline().filter(node_names=[NODE])
    datasets: dict[str, AbstractDataset[Any, Any]] = {
        "source": PriceSource(prices="yahoo", tickers=requested, yahoo_cache=str(cache)),
        "fetched@files": FetchedFiles(path=str(folder)),
    }
    for name in node.inputs():
        if name.startswith("params:"):
            datasets[name] = MemoryDataset(parameters[name.removeprefix("params:")])
    catalog = DataCatalog(datasets)
    clock = Clock(HISTORY, at={10})
    yfinance.Ticker.history = functools.partialmethod(clock)
    since = time.perf_counter()
    SequentialRunner().run(node, catalog)
    took = time.perf_counter() - since
    files = list(folder.iterdir())
    assert len(files) == tickers
    return took, clock, len(pd.read_parquet(files[0]))


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Print the seconds, and the peak memory after ten tickers and after all; return the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 tickers instead of 500, one round")
    tickers, rounds = (20, 1) if parser.parse_args(arguments).quick else (500, ROUNDS)
    for name in ("kedro", "candlecast"):
        logging.getLogger(name).setLevel(logging.WARNING)
    command = [sys.executable, str(ROOT / "tests/yahoo_server.py")]
    times: dict[str, list[float]] = {"yfinance itself": [], "candlecast with it": []}
    peaks: dict[int, float] = {}
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        cache = Path(folder, "yahoo")  # of the client, which keeps it open
        try:
            assert server.stdout
            with redirected(server.stdout.readline().strip()):
                for number in range(rounds):
                    took, clock, rows = fetch(tickers, Path(folder, str(number)), cache)
                    assert clock.calls == tickers
                    peaks = peaks or {**clock.peaks, tickers: peak()}
                    times["yfinance itself"].append(clock.seconds)
                    times["candlecast with it"].append(took)
        finally:
            server.terminate()
    figures = compare(
        f"fetching {tickers} tickers of {rows:,} sessions",
        times,
        ["yfinance itself"],
        why="It also reads the answer as prices, checks them by calendar and writes a file each.",
    )
    sys.stdout.write(
        f"  peak memory after 10 tickers {peaks[10]:.0f} MB, after all {peaks[tickers]:.0f} MB\n"
    )
    return figures


if __name__ == "__main__":
    main()
