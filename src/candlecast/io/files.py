"""Datasets of files."""

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from kedro.io import AbstractDataset
from pyspark.sql import DataFrame

from candlecast.io.delta import translate_spark_errors
from candlecast.io.spark import sessions
from candlecast.read_only import ReadOnlyDataset
from candlecast.sources.checks import COLUMNS, TYPES

ARROW = {
    "STRING": pa.string(),
    "DATE": pa.date32(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
}
SCHEMA = pa.schema([(name, ARROW[kind]) for name, kind in TYPES.items()])


class FetchedFiles(AbstractDataset[Any, pyarrow.dataset.Dataset]):
    """What a run fetched, as Parquet files: checked prices, and the outcome of each ticker.

    The first save removes what an earlier run left. A load reads no rows yet, and needs no Spark.

    Args:
        path: the folder.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None):
        self._path, self._is_new = Path(path), True
        self.metadata = metadata

    def save(self, data: dict[str, pd.DataFrame] | DataFrame) -> None:
        """Save some tickers, by name or as one Spark frame, beside those that are saved already.

        Raises:
            DatasetError: Spark can't read or write them.
        """
        if self._is_new:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path.mkdir(parents=True)
            self._is_new = False
        if not isinstance(data, dict):
            with translate_spark_errors("The prices can't be read"):
                data.write.mode("append").parquet(str(self._path))
            return
        for ticker, rows in data.items():
            table = pa.Table.from_pandas(rows, SCHEMA, preserve_index=False)
            file = self._path / f"{quote(ticker, safe='')}.parquet"
            pyarrow.parquet.write_table(table, file, use_dictionary=["ticker", "source"])

    def load(self) -> pyarrow.dataset.Dataset:
        """Return the files."""
        return pyarrow.dataset.dataset(self._path, SCHEMA, format="parquet")

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}


class FetchedPrices(ReadOnlyDataset[DataFrame]):
    """The prices in `FetchedFiles`, loaded by Spark: one row per ticker and session.

    kedro-datasets' SparkDatasetV2 would ignore the active session when DATABRICKS_HOST is set.

    Args:
        path: the folder.
    """

    _SINGLE_PROCESS = True

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None):
        self._path = path
        self.metadata = metadata

    def load(self) -> DataFrame:
        """Read the files."""
        rows = sessions.get().read.parquet(self._path)
        return rows.where(rows["session"].isNotNull()).select(COLUMNS)
