"""Delta tables: folders on a laptop, three-level names on Databricks."""

import contextlib
import itertools
import json
import logging
import math
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from kedro.io import AbstractDataset, DatasetError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from candlecast.errors import CandlecastError, ConcurrentWriteError, DamageError
from candlecast.frames import Addition, as_pandas, sample_rows, to_pandas
from candlecast.io.delta_log import (
    Log,
    commit_files,
    find_damage,
    is_readable,
    read_commit,
    read_version,
)
from candlecast.io.spark import sessions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

logger = logging.getLogger(__name__)

MAINTENANCE = re.compile(
    "OPTIMIZE|CLUSTER BY|VACUUM|COMPUTE STATS|(UN)?SET TBLPROPERTIES|UPGRADE PROTOCOL|DOMAIN META|"
    "CHANGE COLUMN|(ADD|DROP) CONSTRAINT|REORG|ROW TRACKING"
)
"""Operations of commits that change no row, by how they begin: Databricks maintains the tables of
Unity Catalog at any time, and people comment on their columns."""


@dataclass(frozen=True)
class Commit:
    """The commit that last changed the rows of a table.

    Attributes:
        version: of the table.
        rows: how many the table has; None where a commit writes only a part of it.
        sources: the table versions that the writing run knew, by name.
        made_with: the parameters of the writing run that shape the table, by name.
    """

    version: int
    rows: int | None
    sources: dict[str, int]
    made_with: dict[str, Any]


Change = Callable[["DataFrame | None"], "DataFrame | Addition"]
"""A function of what a table holds (None: there is no table yet) that returns all rows it is to
hold, or those to add."""


class DeltaDataset(AbstractDataset[Any, Any]):
    """A Delta table. A save is one commit.

    Why it is not a dataset of kedro-datasets: docs/decisions.md.

    Two jobs may write the same table at once. A save that conflicts with another commit is repeated
    on what is stored by then. With `replace_by` no commit in between is missed: each save is a
    transaction of the application ``candlecast``, numbered by the commit that last changed the rows
    that it was computed from, and Delta carries out each number once.

    Args:
        table: a folder, or ``<catalog>.<schema>.<table>``.
        schema: the columns in DDL. A save with other columns is refused; types are cast.
        replace_by: a column; a save replaces the rows with the values that the new rows have in it,
            and keeps the others. Without it a save replaces the table.
        keys: the columns that Delta keeps statistics for (the others are never filtered on).
        as_pandas: load a pandas frame instead of a Spark one.
        without: columns that are not loaded as pandas.
        max_rows: load about as many rows as pandas, if there are more: a sample by a hash of ticker
            and session. None: all.
        seed: of that sample.
        missing_ok: load None when there is no table yet.
        keep_days: for how long after it was written an older version of a table with a name can be
            read. Folders are looked after by `candlecast.runtime.upkeep`.

    Attributes:
        is_folder: whether the table is a folder.
        pin: the version to load, set by a hook; None: the newest.
        stamp: stored with the next commits, set by a hook; see `Commit`.
        commit: what was last loaded or saved; None: nothing yet.
    """

    _SINGLE_PROCESS = True
    ATTEMPTS = 8
    MANY_FILES, FEW_FILES = 50, 8

    def __init__(
        self,
        *,
        table: str,
        schema: str | None = None,
        replace_by: str | None = None,
        keys: str | None = None,
        as_pandas: bool = False,
        without: Sequence[str] = (),
        max_rows: int | None = None,
        seed: int = 0,
        missing_ok: bool = False,
        keep_days: float = 30,
        metadata: dict[str, Any] | None = None,
    ):
        self._table = table
        self.is_folder = "/" in table
        self._schema = schema
        self._replace_by = replace_by
        self._keys = keys
        self._as_pandas, self._without = as_pandas, without
        self._max_rows, self._seed = max_rows, seed
        days = 36_500 if self.is_folder else keep_days
        self._properties = {
            "delta.deletedFileRetentionDuration": f"interval {round(days * 86_400)} seconds",
            "delta.logRetentionDuration": f"interval {max(30, math.ceil(days))} days",
        }
        self.optional = missing_ok
        self.metadata = metadata
        self.pin: int | None = None
        self.stamp: dict[str, Any] = {}
        self.commit: Commit | None = None

    @property
    def name(self) -> str:
        """The table's name, without its folder or schema."""
        return re.split(r"[/.]", self._table)[-1]

    @property
    def address(self) -> str:
        """The table's folder, or its whole name."""
        return self._table

    @property
    def is_shared(self) -> bool:
        """Whether each run writes its own part of the table."""
        return self._replace_by is not None

    @property
    def _sql_name(self) -> str:
        if self.is_folder:
            return f"delta.`{self._table}`"
        return ".".join(f"`{part}`" for part in self._table.split("."))  # a catalog may have a dash

    @property
    def _spark(self) -> "SparkSession":
        return sessions.get()

    def load(self) -> Any:
        """Load one version: a later commit does not change what this frame holds.

        Raises:
            DatasetError: there is no such table or version, or Spark can't start or read it.
        """
        with translate_spark_errors(f"Table {self._table} can't be read", self._table):
            if self.optional and not self._exists():
                return None
            version, self.commit = self._find(self.pin)
            if not self._as_pandas:
                return self._read(version)
            rows = self.commit.rows or 0  # 0: of a table that runs share, which is small
            if self.is_folder and (self._max_rows is None or rows <= self._max_rows):
                whole = read_version(Path(self._table), version, self._without)
                if whole is not None:
                    return as_pandas(whole)
            frame = self._read(version).drop(*self._without)
            if self._max_rows is not None:
                frame = sample_rows(frame, rows, self._max_rows, self._seed)
            return to_pandas(frame, rows)

    def find_commit(self, pin: int | None) -> Commit:
        """Return the commit of the version that a load would read; of a folder without Spark.

        Raises:
            DatasetError: there is no such table or version.
        """
        with translate_spark_errors(f"Table {self._table} can't be read", self._table):
            return self._find(pin)[1]

    def save(self, data: "DataFrame | pd.DataFrame | Change") -> None:
        """Write in one commit.

        Args:
            data: the rows; with `replace_by` also a function, see `Change`.

        Raises:
            DatasetError: the columns are not those of the schema, or Spark can't write them;
                caused by `ConcurrentWriteError`: other writers came first at each attempt.
        """
        attempts = Retrying(
            retry=retry_if_exception(_is_conflict),
            wait=wait_random_exponential(multiplier=1, max=30),
            stop=stop_after_attempt(self.ATTEMPTS),
            before_sleep=lambda state: logger.warning(
                "  %s: another writer committed first, attempt %d", self.name, state.attempt_number
            ),
            reraise=True,
        )
        with translate_spark_errors(f"Table {self._table} can't be written", self._table):
            try:
                attempts(self._write, data)
            except Exception as error:
                if not _is_conflict(error):
                    raise
                raise ConcurrentWriteError(self._table, self.ATTEMPTS) from error

    def _write(self, data: "DataFrame | pd.DataFrame | Change") -> None:
        number, stored = 0, None
        if self.is_shared and self._exists():
            version, base = self._find(None)
            number, stored = base.version + 1, self._read(version)
        rows = data(stored) if callable(data) else data
        adds = isinstance(rows, Addition)
        frame = self._spark_frame(rows.rows if isinstance(rows, Addition) else rows)
        if adds and stored is not None and self._has_many_files(version):
            adds, frame = False, stored.unionByName(frame).coalesce(self.FEW_FILES)
        if stored is not None and not callable(data):
            values = frame.select(str(self._replace_by)).distinct()
            others = stored.join(values, str(self._replace_by), "left_anti")
            frame = others.unionByName(frame)
        writer = frame.write.format("delta").mode("append" if adds else "overwrite")
        token = uuid.uuid4().hex
        writer = writer.option("userMetadata", json.dumps({**self.stamp, "commit": token}))
        if self._keys:
            writer = writer.option("delta.dataSkippingStatsColumns", self._keys)
        if self._replace_by:
            writer = writer.option("txnAppId", "candlecast").option("txnVersion", str(number))
        if stored is None:
            writer = writer.option("overwriteSchema", "true").options(**self._properties)
        elif not adds:
            writer = writer.option("replaceWhere", "true")  # all rows; properties stay
        if self.is_folder:
            writer.save(self._table)
        else:
            schema = self._sql_name.rpartition(".")[0]
            # On Databricks the bundle makes it, as a job may not.
            if not self._spark.catalog.databaseExists(schema):
                self._spark.sql(f"CREATE SCHEMA {schema}")
            writer.saveAsTable(self._sql_name)
        self.commit = self._find_own(token)

    def _has_many_files(self, version: int) -> bool:
        """Whether a folder has so many files that they are better written again as few."""
        found = Log(Path(self._table)).find(version) if self.is_folder else None
        return found is not None and len(found.files) >= self.MANY_FILES

    def _spark_frame(self, data: "DataFrame | pd.DataFrame") -> "DataFrame":
        if isinstance(data, pd.DataFrame):
            # By Arrow whatever the session's settings are: NaN and NA become null.
            data = self._spark.createDataFrame(pa.Table.from_pandas(data, preserve_index=False))
        if self._schema is None:
            return data
        from pyspark.sql import functions as F
        from pyspark.sql.types import StructType

        schema = StructType.fromDDL(self._schema)
        assert isinstance(schema, StructType)  # a list of columns is never another type
        fields = schema.fields
        expected, got = [field.name for field in fields], list(data.columns)
        if set(expected) != set(got):
            raise DatasetError(f"Table {self._table}: expected the columns {expected}, got {got}.")
        return data.select(*(F.col(field.name).cast(field.dataType) for field in fields))

    def _read(self, version: int) -> "DataFrame":
        return self._spark.read.option("versionAsOf", str(version)).table(self._sql_name)

    def _find(self, pin: int | None) -> tuple[int, Commit]:
        """Find the version to read, and the commit that made its rows.

        After maintenance that is not the commit's own version but the newest: it has the same rows,
        and the platform removes the files of older ones.

        Raises:
            DatasetError: there is no such table or version.
        """
        if not self._exists():
            raise DatasetError(
                f"There is no table {self._table} yet. Run the pipeline that writes it: kedro run"
            )
        log = self._log()
        newest = change = next(log)
        while MAINTENANCE.match(change["operation"]) and (older := next(log, None)):
            if int(older["version"]) != int(change["version"]) - 1:
                log = itertools.chain([older], log)
                break  # at the oldest there is, as the log no longer has the change
            change = older
        version, commit = int(newest["version"]), self._commit_of(change)
        if pin is None or commit.version <= pin <= version:
            return version, commit
        for entry in log:
            if int(entry["version"]) == pin:
                if self.is_folder and not is_readable(Path(self._table), pin):
                    break
                return pin, self._commit_of(entry)
        raise DatasetError(
            f"Table {self._table} no longer has version {pin} (the newest is {version}). "
            "Run this candidate from its start: kedro run"
        )

    def _find_own(self, token: str) -> Commit:
        """Find the commit that holds a token.

        Raises:
            ConcurrentWriteError: there is none: another writer's transaction had its number, so
                Delta wrote nothing.
        """
        for entry in self._log():
            if json.loads(entry["userMetadata"] or "{}").get("commit") == token:
                return self._commit_of(entry)
        raise ConcurrentWriteError(self._table, 1)

    def _commit_of(self, entry: dict[str, Any]) -> Commit:
        rows = (entry["operationMetrics"] or {}).get("numOutputRows")
        stamp = json.loads(entry["userMetadata"] or "{}")
        return Commit(
            version=int(entry["version"]),
            rows=None if rows is None or self.is_shared else int(rows),
            sources=stamp.get("sources", {}),
            made_with=stamp.get("parameters", {}),
        )

    def _log(self) -> Iterator[dict[str, Any]]:
        """Yield the commits, the newest first.

        A folder's come from its own log, which saves a Spark job of 0.4 s.
        """
        if self.is_folder:
            for file in reversed(commit_files(Path(self._table))):
                [info] = (each["commitInfo"] for each in read_commit(file) if "commitInfo" in each)
                yield {"operationMetrics": None, "userMetadata": None, **info, "version": file.stem}
            return
        history = f"DESCRIBE HISTORY {self._sql_name}"
        [newest] = self._spark.sql(f"{history} LIMIT 1").collect()
        yield newest.asDict()
        for entry in self._spark.sql(history).collect():
            if entry["version"] < newest["version"]:
                yield entry.asDict()

    def _exists(self) -> bool:
        if self.is_folder:
            # A first write that was killed leaves a log without a commit.
            return bool(commit_files(Path(self._table)))
        return bool(self._spark.catalog.tableExists(self._sql_name))

    def _describe(self) -> dict[str, Any]:
        return {"table": self._table, "replace_by": self._replace_by}


class TableVersion(DeltaDataset):
    """The version of a Delta table that a run reads; loads the number alone."""

    def load(self) -> int:
        """Return the version.

        Raises:
            DatasetError: there is no such table.
        """
        self.commit = self.find_commit(self.pin)
        return self.commit.version


def _is_conflict(error: BaseException) -> bool:
    """Whether another writer committed first; classic Spark has no exception class for that."""
    return isinstance(error, ConcurrentWriteError) or bool(
        re.search(r"\[DELTA_(CONCURRENT_|METADATA_CHANGED|PROTOCOL_CHANGED)", str(error))
    )


@contextlib.contextmanager
def translate_spark_errors(failure: str, table: str = "") -> Iterator[None]:
    """Raise a DatasetError without Java's stack trace; it names a damaged file, if that is why.

    To other errors, Kedro adds the dataset's whole description.

    Args:
        failure: what can't be done.
        table: the table that is read or written, a folder or a name.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except CandlecastError as error:
        raise DatasetError(str(error)) from error
    except (PySparkException, Py4JError) as error:
        if damage := damage_behind(error, table.rpartition("/")[0]):
            raise DatasetError(str(damage)) from damage
        message = re.split(r"\n+(?:JVM stacktrace:|Driver stacktrace:|\s+at )", str(error))[
            0
        ].strip()
        raise DatasetError(f"{failure}: {message}") from error


def damage_behind(error: BaseException | None, tables: str) -> DamageError | None:
    """Return the damage of a table that made Spark fail, if there is any.

    Frames are lazy: that of one table may fail where another one is written, or in a node.

    Args:
        error: what was raised.
        tables: the folder of all tables; no damage is found in tables with names.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    if "/" not in tables or not isinstance(error, PySparkException | Py4JError):
        return None
    logs = sorted(Path(tables).glob("*/_delta_log"))
    return next(filter(None, (find_damage(log.parent) for log in logs)), None)
