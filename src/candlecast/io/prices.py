"""The source of prices: the committed sample, one's own file or table, or Yahoo."""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
from pyspark.sql import DataFrame

from candlecast.errors import TableError
from candlecast.io.delta import translate_spark_errors
from candlecast.io.spark import sessions
from candlecast.read_only import ReadOnlyDataset
from candlecast.sources.table import SAMPLE, YAHOO, Source, make_source, source_name

SAMPLE_MADE = pd.Timestamp("2026-11-24", tz="UTC")
"""Stands for the time of ingestion of the sample, so that two runs give equal tables."""
SMALL = 100_000_000
"""A file of fewer bytes is read without Spark, whose start takes longer."""
CSV, PARQUET = (".csv", ".csv.gz"), ".parquet"
KINDS = "a CSV file, a Parquet file or folder, or a Delta table"
ADVICE = "Look at it, or name another: --params prices=…"
TABLE = re.compile(r"[^/.\s]+(\.[^/.\s]+){1,2}")


class PriceSource(ReadOnlyDataset[Source]):
    """Where prices come from. Nothing is ever written there.

    Args:
        prices: ``yahoo``; the path of a CSV file, of a Parquet file or folder, or of a Delta table;
            or ``[<catalog>.]<schema>.<table>``.
        tickers: the requested ones. One stands for all rows of a table without such a column.
        columns: names of a table's columns by ours, where they are not common ones.
        project: the folder to which a relative path is relative.
        yahoo_cache: the folder for the caches of Yahoo's client.
        known_tickers: of Yahoo, among which a near match of an unknown one is looked up.
    """

    _SINGLE_PROCESS = True

    def __init__(
        self,
        *,
        prices: str,
        tickers: Sequence[str],
        columns: Mapping[str, str] | None = None,
        project: str = ".",
        yahoo_cache: str = "",
        known_tickers: Sequence[str] = (),
        metadata: dict[str, Any] | None = None,
    ):
        self._prices, self._tickers, self._columns = prices, tickers, columns or {}
        self._path = Path(project, prices)
        self._yahoo_cache = Path(yahoo_cache)
        self._known = known_tickers
        self.metadata = metadata

    def load(self) -> Source:
        """Return the source. A request to Yahoo is made when a ticker is fetched.

        Raises:
            DatasetError: Spark can't read the table; caused by `TableError`: there is no such
                table, a column is missing, or it is empty.
        """
        if self._prices == YAHOO:
            from candlecast.sources.yahoo import fetch_sessions

            fetch = partial(fetch_sessions, cache_dir=self._yahoo_cache, known=self._known)
            return Source(YAHOO, self._known, fetch)
        now = SAMPLE_MADE if self._prices == SAMPLE else pd.Timestamp(dt.datetime.now(dt.UTC))
        name = source_name(self._prices)
        with translate_spark_errors(f"Prices {self._prices} can't be read"):
            return make_source(name, now, self._read(), self._columns, self._tickers)

    def _read(self) -> pd.DataFrame | DataFrame:
        path = self._path
        if TABLE.fullmatch(self._prices) and not path.name.endswith((*CSV, PARQUET)):
            name = self._prices.replace(".", "`.`")  # a catalog may have a dash
            return sessions.get().read.table(f"`{name}`")
        if not path.exists():
            raise TableError(str(path), "it does not exist", "Correct the path: --params prices=…")
        if path.is_file() and path.stat().st_size < SMALL:
            return self._read_file()
        reader = sessions.get().read
        if path.name.endswith(CSV):
            return reader.csv(str(path), header=True)
        if (path / "_delta_log").is_dir():
            return reader.format("delta").load(str(path))
        if path.name.endswith(PARQUET) or any(path.rglob(f"*{PARQUET}")):
            return reader.parquet(str(path))
        raise TableError(str(path), f"it is not {KINDS}", ADVICE)

    def _read_file(self) -> pd.DataFrame:
        """Read a small file: texts of CSV as they are."""
        path = str(self._path)
        try:
            if path.endswith(CSV):
                return pd.read_csv(path, dtype=str, keep_default_na=False)
            # Without pandas' own metadata an index is a column, as for Spark.
            rows: pd.DataFrame = pyarrow.parquet.read_table(path).to_pandas(ignore_metadata=True)
            return rows
        except (ValueError, OSError) as error:  # so are the parsers' own
            raise TableError(path, f"it can't be read as {KINDS} ({error})", ADVICE) from error
