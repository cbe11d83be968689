"""Compare a second ingest with the first, on a made-up market: ``python benchmarks/ingest.py``.

The second finds the same prices as those that the first has stored. MLflow's store is there before
both, so that none has to make it.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import KEDRO, ROUNDS, Figure, compare, in_turn, seconds
from market import write_market

FIRST = "first ingest"
AIM = 1 / 1.2
"""Of the ratio: at most 1.2 times the seconds of the first."""


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Time both, print their seconds and return the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickers", type=int, default=500)
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="3 tickers, 3 years, one round")
    given = parser.parse_args(arguments)
    if given.quick:
        given.tickers, given.years = 3, 3
    with TemporaryDirectory() as folder:
        prices, root = f"{folder}/market", f"{folder}/root"
        write_market(prices, given.tickers, given.years)
        kedro = [KEDRO, "run", "--env", "table", "--tags", "ingest"]
        kedro += ["--params", f"prices={prices},data_root={root}"]

        def ingest() -> float:
            return seconds(kedro)

        def ingest_first() -> float:
            shutil.rmtree(Path(root, "tables"), ignore_errors=True)
            return ingest()

        if not given.quick:
            ingest()
        times = in_turn(
            {FIRST: ingest_first, "second ingest": ingest}, 1 if given.quick else ROUNDS
        )
        title = f"ingesting {given.tickers} tickers, {given.years} years again"
        why = "It also shortens what is stored and what was fetched to a hash per ticker."
        return compare(title, times, [FIRST], aims=[AIM], why=why)


if __name__ == "__main__":
    main()
