"""The sources of prices as Kedro datasets: the committed sample, and Yahoo."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.io import AbstractDataset, DatasetError

from candlecast.errors import NoSessionsError, UnknownTickerError
from candlecast.sources.checks import COLUMNS, Source

if TYPE_CHECKING:
    pass

FIRST_SESSION = dt.date(1962, 1, 2)
"""Before Yahoo's oldest prices: what is asked for when no start is given."""


class SampleSource(AbstractDataset[None, Source]):
    """The committed sample of real prices, in place of a market-data service; loads a `Source`.

    Args:
        filepath: a CSV file, one row per ticker and session.
        ingested_at: when the file was made (UTC). It stands for the time of ingestion, so that two
            runs on the same file give the same table.
    """

    def __init__(self, *, filepath: str, ingested_at: str, metadata: dict[str, Any] | None = None):
        self._filepath = PurePosixPath(filepath)
        self._ingested_at = ingested_at
        self.metadata = metadata

    def load(self) -> Source:
        """Read the file and return the source."""
        if not Path(self._filepath).is_file():
            raise DatasetError(
                f"The sample {self._filepath} is not there. To go on, clone the project whole."
            )
        table = pd.read_csv(self._filepath, dtype={"ticker": str})
        expected = [name for name in COLUMNS if name not in ("source", "ingested_at")]
        if not set(expected) <= set(table):
            raise DatasetError(
                f"The sample {self._filepath}: expected the columns {', '.join(expected)}; "
                f"got {', '.join(map(str, table))}."
            )
        table["session"] = pd.to_datetime(table["session"])
        table["source"] = "sample"
        table["ingested_at"] = pd.Timestamp(self._ingested_at).tz_convert("UTC")
        known = sorted(table["ticker"].unique())

        def sessions(
            ticker: str, start: pd.Timestamp | None, end: pd.Timestamp | None
        ) -> pd.DataFrame:
            name = f"the sample {self._filepath.name}"
            asked = (name, ticker, start and start.date(), end and end.date(), 1)
            whole = table[table["ticker"] == ticker]
            if whole.empty:
                error = UnknownTickerError(*asked, "no such ticker")
                error.known = known
                raise error
            first, last = whole["session"].min(), whole["session"].max()
            rows = whole[whole["session"].between(start or first, end or last)]
            if rows.empty:
                raise NoSessionsError(
                    *asked,
                    f"no sessions between {asked[2] or 'the first'} and {asked[3] or 'the last'} "
                    f"(it has those of {first:%Y-%m-%d} to {last:%Y-%m-%d})",
                )
            return rows.reset_index(drop=True)

        return sessions

    def save(self, data: None) -> None:
        """The sample is never written by a run."""
        raise DatasetError("The sample is read only; scripts/make_sample.py makes it.")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "ingested_at": self._ingested_at}


class YahooSource(AbstractDataset[None, Source]):
    """Yahoo's daily prices; loads a `Source` that asks when it is called.

    Args:
        filepath: the folder for the client's own caches.
        known: tickers that an unknown one is compared with, to suggest the one that was meant.
    """

    def __init__(
        self, *, filepath: str, known: Sequence[str] = (), metadata: dict[str, Any] | None = None
    ):
        self._filepath = PurePosixPath(filepath)
        self._known = known
        self.metadata = metadata

    def load(self) -> Source:
        """Return the source."""
        from candlecast.sources.yahoo import fetch_sessions

        def sessions(
            ticker: str, start: pd.Timestamp | None, end: pd.Timestamp | None
        ) -> pd.DataFrame:
            first = start.date() if start is not None else FIRST_SESSION
            last = end.date() if end is not None else dt.datetime.now(dt.UTC).date()
            try:
                return fetch_sessions(ticker, first, last, cache_dir=Path(self._filepath))
            except UnknownTickerError as error:
                error.known = self._known
                raise

        return sessions

    def save(self, data: None) -> None:
        """Yahoo is read only."""
        raise DatasetError("Yahoo is read only.")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
