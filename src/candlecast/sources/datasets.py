"""Kedro datasets that load a source of prices: the committed sample, and Yahoo."""

import datetime as dt
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from kedro.io import DatasetError

from candlecast.errors import SourceError
from candlecast.read_only import ReadOnlyDataset
from candlecast.sources.checks import COLUMNS, Source


class SampleSource(ReadOnlyDataset[Source]):
    """The committed sample of real prices.

    Args:
        filepath: a CSV file, one row per ticker and session.
        ingested_at: when the file was made (UTC). It stands for the time of ingestion, so that two
            runs on the same file give the same table.
    """

    def __init__(self, *, filepath: str, ingested_at: str, metadata: dict[str, Any] | None = None):
        self._file = Path(filepath)
        self._ingested_at = pd.Timestamp(ingested_at).tz_convert("UTC")
        self.metadata = metadata

    def load(self) -> Source:
        """Read the file and return the source.

        Raises:
            DatasetError: there is no such file, or it lacks a column.
        """
        if not self._file.is_file():
            raise DatasetError(f"The sample {self._file} is missing. Clone the whole project.")
        table = pd.read_csv(self._file, dtype={"ticker": str})
        expected = [name for name in COLUMNS if name not in ("source", "ingested_at")]
        if not set(expected) <= set(table):
            raise DatasetError(
                f"The sample {self._file}: expected the columns {', '.join(expected)}; "
                f"got {', '.join(map(str, table))}."
            )
        table["session"] = pd.to_datetime(table["session"])
        table = table.assign(source="sample", ingested_at=self._ingested_at)
        return partial(_select, table, f"The sample {self._file.name}")


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


class YahooSource(ReadOnlyDataset[Source]):
    """Yahoo's daily prices; a request is made when the source is called.

    Args:
        filepath: the folder for the client's own caches.
        known: tickers among which a near match of an unknown one is looked up.
    """

    def __init__(
        self, *, filepath: str, known: Sequence[str] = (), metadata: dict[str, Any] | None = None
    ):
        self._cache_dir, self._known = Path(filepath), known
        self.metadata = metadata

    def load(self) -> Source:
        """Return the source."""
        from candlecast.sources.yahoo import fetch_sessions

        return partial(fetch_sessions, cache_dir=self._cache_dir, known=self._known)
