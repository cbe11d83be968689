"""The sources of prices as Kedro datasets: the committed sample, and Yahoo."""

import datetime as dt
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from kedro.io import AbstractDataset, DatasetError

from candlecast.errors import SourceError
from candlecast.sources.checks import COLUMNS, Source


class SourceDataset(AbstractDataset[None, Source]):
    """A source of prices: its kinds load a `Source`. A run never writes it."""

    def save(self, data: None) -> None:
        """Refuse.

        Raises:
            DatasetError: always.
        """
        raise DatasetError(f"{self} is read only.")


class SampleSource(SourceDataset):
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
        """Read the file and return the source.

        Raises:
            DatasetError: there is no such file, or it lacks a column.
        """
        if not Path(self._filepath).is_file():
            raise DatasetError(f"The sample {self._filepath} is missing. Clone the whole project.")
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
        return partial(_select, table, f"The sample {self._filepath.name}")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "ingested_at": self._ingested_at}


def _select(
    table: pd.DataFrame, name: str, ticker: str, start: dt.date | None, end: dt.date | None
) -> pd.DataFrame:
    """Select a ticker's sessions of a range: a `Source`, once table and name are given."""
    failure = partial(SourceError, name, ticker, start, end, 1)
    whole = table[table["ticker"] == ticker]
    if whole.empty:
        known = table["ticker"].unique()
        raise failure("unknown ticker", "it has no such ticker", known=known)
    first, last = whole["session"].min(), whole["session"].max()
    rows = whole[whole["session"].between(pd.Timestamp(start or first), pd.Timestamp(end or last))]
    if rows.empty:
        raise failure("no sessions", f"it has {first:%Y-%m-%d} to {last:%Y-%m-%d}")
    return rows.reset_index(drop=True)


class YahooSource(SourceDataset):
    """Yahoo's daily prices; loads a `Source` that makes its requests when it is called.

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

        return partial(fetch_sessions, cache_dir=Path(self._filepath), known=self._known)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
