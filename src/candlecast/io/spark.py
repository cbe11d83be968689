"""The Spark session of the datasets: the active one, or else one that the project starts.

So a table loads in a notebook as in a run. Spark starts when the first dataset needs it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from candlecast.read_only import ReadOnlyDataset

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class SparkSessions:
    """Where the datasets of this process get their session.

    Attributes:
        start: starts the project's own session, set by a hook; None: one is there (Databricks).
    """

    start: "Callable[[], SparkSession] | None" = None

    def get(self) -> "SparkSession":
        """Return the active session, or start one."""
        from pyspark.sql import SparkSession

        if self.start is None:
            return SparkSession.builder.getOrCreate()
        return SparkSession.getActiveSession() or self.start()


sessions = SparkSessions()


class SparkParquet(ReadOnlyDataset["DataFrame"]):
    """A folder of Parquet files, loaded as one Spark frame.

    kedro-datasets' SparkDatasetV2 would ignore the active session when DATABRICKS_HOST is set.

    Args:
        path: the folder.
    """

    _SINGLE_PROCESS = True

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None):
        self._path = path
        self.metadata = metadata

    def load(self) -> "DataFrame":
        """Read the files."""
        return sessions.get().read.parquet(self._path)
