"""The Spark session of the datasets: the active one, or else one that the project starts.

So a table loads in a notebook as in a run. Spark starts when the first dataset needs it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


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
