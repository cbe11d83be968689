"""Kedro datasets: sources of prices, Delta tables, and what a candidate's MLflow run holds."""

import contextlib
import datetime as dt
import importlib.metadata
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
import pyarrow as pa
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets.json import JSONDataset
from kedro_datasets.partitions import PartitionedDataset
from kedro_mlflow.io.models import MlflowModelTrackingDataset
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from candlecast.checks import COLUMNS, Source
from candlecast.errors import NoSessionsError, UnknownTickerError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from sklearn.ensemble import RandomForestClassifier

logger = logging.getLogger(__name__)

FIRST_SESSION = dt.date(1962, 1, 2)
"""Before Yahoo's oldest prices: what is asked for when no start is given."""

MAINTENANCE = {
    *("OPTIMIZE", "OPTIMIZE CHECKPOINT", "CLUSTER BY", "VACUUM START", "VACUUM END"),
    *("COMPUTE STATS", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES"),
    *("UPGRADE PROTOCOL", "DOMAIN METADATA CLEANUP"),
}
"""Commits to a Delta table that change no row. Databricks looks after the tables of Unity Catalog
by itself, at any time (predictive optimization, compaction)."""


class SampleSource(AbstractDataset[None, Source]):
    """The committed sample of real prices, in place of a market-data service; loads a `Source`.

    Args:
        filepath: a CSV file, one row a ticker and session.
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
        from candlecast.yahoo import fetch_sessions

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


class FetchedFiles(PartitionedDataset):  # type: ignore[misc] # kedro-datasets has no types
    """A file a ticker, of this run alone: its first save removes what earlier runs left."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments, overwrite=True)

    def save(self, data: dict[str, Any]) -> None:
        """Save the files of one chunk, beside those of the chunks before."""
        super().save(data)
        self._overwrite = False


@dataclass(frozen=True)
class Commit:
    """The commit that last changed the rows of a table; maintenance of the platform is none.

    Attributes:
        version: of the table.
        rows: how many the table has; None where a commit writes a part of it.
        sources: versions of the tables that were known to the run that wrote it, by name.
        made_with: ``candidate`` and the parameters that the run was given, by name.
    """

    version: int
    rows: int | None
    sources: dict[str, int]
    made_with: dict[str, Any]


class ConcurrentWriteError(DatasetError):
    """Another writer committed to a table first, again and again."""


Change = Callable[["DataFrame | None"], "DataFrame"]
"""From what a table holds (None: there is none yet) to the rows to save."""


class DeltaDataset(AbstractDataset[Any, Any]):
    """A Delta table, a path on a laptop and a three-level name on Databricks; a save is a commit.

    No dataset of kedro-datasets does both places, replacement by value and commit stamps:
    SparkDatasetV2 knows paths only, ManagedTableDataset names only.

    Two jobs may write the same table at once. A save that finds another commit in its way is
    repeated on what is stored then. With `replace_by` no commit that came between is overlooked:
    each is a transaction of the application ``candlecast``, numbered by the version that it was
    computed from, and Delta carries out a number once.

    Args:
        table: a folder, or ``<catalog>.<schema>.<table>``.
        schema: the columns in DDL. What is saved is refused unless it has exactly these; types are
            cast.
        replace_by: a column; a save replaces the rows of the values that it brings and keeps the
            others. Without it a save replaces the table.
        keys: the columns that Delta keeps statistics for (the others are wide, never filtered on).
        as_pandas: load a pandas frame instead of a Spark one.
        missing_ok: load None when there is no table yet.

    Attributes:
        pin: the version to load; None: the newest.
        stamp: stored with the next commits, see `Commit`.
        commit: what was last loaded or saved; None: nothing yet.
    """

    _SINGLE_PROCESS = True
    ATTEMPTS = 8

    def __init__(
        self,
        *,
        table: str,
        schema: str | None = None,
        replace_by: str | None = None,
        keys: str | None = None,
        as_pandas: bool = False,
        missing_ok: bool = False,
        metadata: dict[str, Any] | None = None,
    ):
        self._table = table
        self._schema = schema
        self._replace_by = replace_by
        self._keys = keys
        self._as_pandas = as_pandas
        self.optional = missing_ok
        self.metadata = metadata
        self.pin: int | None = None
        self.stamp: dict[str, Any] = {}
        self.commit: Commit | None = None

    @property
    def name(self) -> str:
        """The table's name, the same in both places."""
        return re.split(r"[/.]", self._table)[-1]

    @property
    def is_shared(self) -> bool:
        """Whether each run writes its own part of the table."""
        return self._replace_by is not None

    @property
    def _sql_name(self) -> str:
        if "/" in self._table:
            return f"delta.`{self._table}`"
        return ".".join(f"`{part}`" for part in self._table.split("."))  # a catalog may have a dash

    @property
    def _spark(self) -> "SparkSession":
        from pyspark.sql import SparkSession

        return SparkSession.builder.getOrCreate()

    def load(self) -> Any:
        """Load one version: a later commit does not change what this frame holds.

        Raises:
            DatasetError: there is no such table or version, or Spark can't read it.
        """
        with translate_spark_errors(f"Table {self._table} can't be read"):
            if self.optional and not self._exists():
                return None
            version, self.commit = self._find(self.pin)
            frame = self._read(version)
            return frame.toArrow().to_pandas(date_as_object=False) if self._as_pandas else frame

    def save(self, data: "DataFrame | pd.DataFrame | Change") -> None:
        """Write in one commit.

        Args:
            data: the rows; with `replace_by` also a function of what is stored that returns them.

        Raises:
            DatasetError: the columns are not those of the schema, or Spark can't write them.
            ConcurrentWriteError: other writers came first at each attempt.
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
        with translate_spark_errors(f"Table {self._table} can't be written"):
            try:
                attempts(self._write, data)
            except Exception as error:
                if not _is_conflict(error):
                    raise
                raise ConcurrentWriteError(
                    f"Table {self._table} was not written: in {self.ATTEMPTS} attempts another "
                    "writer committed first. What is stored is whole. Run this again when the "
                    "other job has ended."
                ) from error

    def _write(self, data: "DataFrame | pd.DataFrame | Change") -> None:
        there = self.is_shared and self._exists()
        version = self._find(None)[0] if there else -1
        if callable(data):
            data = data(self._read(version) if there else None)
        frame = self._spark_frame(data)
        writer = frame.write.format("delta").mode("overwrite")
        token = uuid.uuid4().hex
        writer = writer.option("userMetadata", json.dumps({**self.stamp, "commit": token}))
        if self._keys:
            writer = writer.option("delta.dataSkippingStatsColumns", self._keys)
        if self._replace_by:
            writer = writer.option("txnAppId", "candlecast").option("txnVersion", str(version + 1))
        if there:
            values = [row[0] for row in frame.select(str(self._replace_by)).distinct().collect()]
            literals = ", ".join(
                "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in values
            )
            writer = writer.option("replaceWhere", f"{self._replace_by} IN ({literals})")
        else:
            writer = writer.option("overwriteSchema", "true")
        if "/" in self._table:
            writer.save(self._table)
        else:
            schema = self._sql_name.rpartition(".")[0]
            if not self._spark.catalog.databaseExists(schema):  # the bundle makes it on Databricks
                self._spark.sql(f"CREATE SCHEMA {schema}")
            writer.saveAsTable(self._sql_name)
        self.commit = self._own_commit(token)

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

        The newest version is read as the platform keeps it; the files of older ones get removed.

        Raises:
            DatasetError: there is no such table or version.
        """
        if not self._exists():
            raise DatasetError(
                f"There is no table {self._table} yet. Run the pipeline that writes it: kedro run"
            )
        newest = changed = None
        for row in self._history():
            newest = int(row["version"]) if newest is None else newest
            if changed is None and row["operation"] not in MAINTENANCE:
                changed = row
                if pin is None or int(row["version"]) <= pin <= newest:
                    break
            if pin is not None and int(row["version"]) == pin:
                return pin, self._commit_of(row)
        else:
            if pin is not None:
                raise DatasetError(
                    f"Table {self._table} has no version {pin} any more (the newest is {newest}). "
                    "Run this candidate from its start: kedro run"
                )
            changed = row  # the last change is older than the log reaches
        assert newest is not None
        return newest, self._commit_of(changed)

    def _own_commit(self, token: str) -> Commit:
        """Find the commit that holds a token.

        Raises:
            ConcurrentWriteError: there is none, as another writer came first.
        """
        for row in self._history():
            if json.loads(row["userMetadata"] or "{}").get("commit") == token:
                return self._commit_of(row)
        raise ConcurrentWriteError(self._table)

    def _commit_of(self, row: dict[str, Any]) -> Commit:
        rows = (row["operationMetrics"] or {}).get("numOutputRows")
        stamp = json.loads(row["userMetadata"] or "{}")
        candidate = {"candidate": stamp["candidate"]} if "candidate" in stamp else {}
        return Commit(
            int(row["version"]),
            None if rows is None or self._replace_by else int(rows),
            stamp.get("sources", {}),
            stamp.get("parameters", {}) | candidate,
        )

    def _history(self) -> Iterator[dict[str, Any]]:
        """Yield the commits, the newest first.

        A folder's come from its own log, which spares a Spark job of 0.4 s.
        """
        if "/" in self._table:
            for file in sorted((Path(self._table) / "_delta_log").glob("*.json"), reverse=True):
                actions = [json.loads(line) for line in file.read_text().splitlines()]
                info = next(action["commitInfo"] for action in actions if "commitInfo" in action)
                yield {"operationMetrics": None, "userMetadata": None, **info, "version": file.stem}
            return
        history = f"DESCRIBE HISTORY {self._sql_name}"
        [newest] = self._spark.sql(f"{history} LIMIT 1").collect()
        yield newest.asDict()
        for row in self._spark.sql(history).collect():
            if row["version"] < newest["version"]:
                yield row.asDict()

    def _exists(self) -> bool:
        if "/" in self._table:
            # A first write that was killed leaves a log without a commit.
            return any((Path(self._table) / "_delta_log").glob("*.json"))
        return bool(self._spark.catalog.tableExists(self._sql_name))

    def _describe(self) -> dict[str, Any]:
        return {"table": self._table, "replace_by": self._replace_by}


class TableVersion(DeltaDataset):
    """The version of a Delta table that a run reads, for what notes where it came from."""

    def load(self) -> int:
        """Return the version.

        Raises:
            DatasetError: there is no such table.
        """
        with translate_spark_errors(f"Table {self._table} can't be read"):
            _, self.commit = self._find(self.pin)
        return self.commit.version


def _is_conflict(error: BaseException) -> bool:
    """Whether Delta says that another writer committed first; classic Spark has no class for it."""
    return isinstance(error, ConcurrentWriteError) or bool(
        re.search(r"\[DELTA_(CONCURRENT_|METADATA_CHANGED|PROTOCOL_CHANGED)", str(error))
    )


@contextlib.contextmanager
def translate_spark_errors(failure: str) -> Iterator[None]:
    """Raise what Spark says of a failure, without the JVM stack trace that Spark Connect adds."""
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        said = str(error).partition("\n\nJVM stacktrace:")[0].strip()
        raise DatasetError(f"{failure}: {said}") from error


class Clock(AbstractDataset[None, dt.datetime]):
    """The time, UTC, to the second: nodes don't look it up themselves."""

    def __init__(self, *, metadata: dict[str, Any] | None = None):
        self.metadata = metadata

    def load(self) -> dt.datetime:
        """Look it up."""
        return dt.datetime.now(dt.UTC).replace(microsecond=0)

    def save(self, data: None) -> None:
        """Nobody sets it."""
        raise DatasetError("The clock is read only.")

    def _describe(self) -> dict[str, Any]:
        return {}


class LoggedJSON(JSONDataset):  # type: ignore[misc] # kedro-datasets has no types
    """A JSON file that is logged to the run: as an artifact, its numbers as metrics in one batch.

    A flat mapping gives one metric a number. A list of rows gives a history for each number of a
    row: the metric ``<prefix>.<name>`` over the steps that the column `step` holds.

    Args:
        filepath: the file.
        step: the column of a list of rows that is the step.
        prefix: what stands before a history's names.
    """

    def __init__(
        self,
        *,
        filepath: str,
        step: str | None = None,
        prefix: str | None = None,
        metadata: dict[str, Any] | None = None,
    ):
        super().__init__(filepath=filepath, save_args={"indent": 2}, metadata=metadata)
        self._step = step
        self._prefix = prefix

    def save(self, data: Any) -> None:
        """Write the file, then log it."""
        super().save(data)
        run = mlflow.active_run()
        if run is None:
            raise DatasetError(f"{self._filepath} belongs to an MLflow run, and none is active.")
        rows = [data] if isinstance(data, dict) else data
        prefix = f"{self._prefix}." if self._prefix else ""
        client, now = MlflowClient(), int(pd.Timestamp.now("UTC").timestamp() * 1000)
        points = [
            Metric(
                _metric_name(prefix + name),
                float(value),
                now,
                int(row[self._step]) if self._step else 0,
            )
            for row in rows
            for name, value in row.items()
            if isinstance(value, int | float) and name != self._step
        ]
        for first in range(0, len(points), 1000):  # MLflow's limit for one batch
            client.log_batch(run.info.run_id, metrics=points[first : first + 1000])
        client.log_artifact(run.info.run_id, str(self._filepath))


def _metric_name(name: str) -> str:
    """MLflow's names have letters, digits and ``_-. :/`` only; a ticker like ^GSPC has others."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def pinned(packages: Sequence[str]) -> list[str]:
    """Pin packages to the versions that are installed.

    On images of Databricks whose packages pip has replaced, the metadata may have no version or
    answer None (dbdemos-notebooks, pull request 251). The module says it then; a package whose
    version neither knows is left out.
    """
    found = {}
    for package in packages:
        try:
            version: str | None = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = None
        module = package.replace("scikit-learn", "sklearn")
        found[package] = version or getattr(importlib.import_module(module), "__version__", None)
    return [f"{package}=={version}" for package, version in found.items() if version]


class ForestDataset(MlflowModelTrackingDataset):  # type: ignore[misc] # nor kedro-mlflow
    """The chosen forest as a logged model of the candidate's run.

    Saved with its signature, an example of its input, and the pinned versions of what it needs; its
    ``predict`` gives both classes' probabilities. What is saved is a triple: the forest, the rows
    of its input to show as the example, and what to know of it (a mapping that travels with it as
    MLflow's model metadata). What is loaded is the forest of the active run, also in another
    process than the one that saved it.
    """

    REQUIREMENTS = ("mlflow", "numpy", "pandas", "scikit-learn", "scipy", "skops")

    def __init__(self, *, metadata: dict[str, Any] | None = None):
        super().__init__(
            flavor="mlflow.sklearn",
            save_args={
                "name": "model",
                "serialization_format": "skops",  # named, so that it is the same everywhere
                "skops_trusted_types": ["sklearn.tree._tree.Tree"],
                "pyfunc_predict_fn": "predict_proba",
                "pip_requirements": pinned(self.REQUIREMENTS),
            },
            metadata=metadata,
        )

    def _save(self, data: tuple["RandomForestClassifier", pd.DataFrame, dict[str, Any]]) -> None:
        model, example, self._save_args["metadata"] = data
        self._save_args["input_example"] = example
        self._save_args["signature"] = infer_signature(example, model.predict_proba(example))
        super()._save(model)

    def _load(self) -> "RandomForestClassifier":
        run = mlflow.active_run()
        if run is None:
            raise DatasetError("The model belongs to an MLflow run, and none is active.")
        model = logged_model(run.info.run_id)
        if model is None:
            raise DatasetError(
                f"The MLflow run {run.info.run_id} has no model. To go on, train one: "
                "kedro run --tags train, with the same candidate."
            )
        return mlflow.sklearn.load_model(model.model_uri)


def logged_model(run_id: str) -> LoggedModel | None:
    """Return the newest whole model that was logged to a run; None when there is none.

    The run itself names its models: Databricks can't search them by run (mlflow 3.17,
    tracking/_model_registry/fluent.py, ``_get_logged_models_from_run``).
    """
    client = MlflowClient()
    outputs = client.get_run(run_id).outputs
    models = [
        client.get_logged_model(output.model_id)
        for output in (outputs.model_outputs if outputs else [])
    ]
    whole = [model for model in models if model.status == LoggedModelStatus.READY]
    return max(whole, key=lambda model: model.creation_timestamp, default=None)


def table_versions(tags: Mapping[str, str]) -> dict[str, int]:
    """Return the versions of the tables that a candidate's run read or wrote, by name, sorted."""
    return {
        name.removeprefix("version."): int(value)
        for name, value in sorted(tags.items())
        if name.startswith("version.")
    }


class LineageDataset(AbstractDataset[None, dict[str, Any]]):
    """What the candidate's MLflow run knows of itself, for the report; loads a plain mapping.

    Keys: ``candidate``, ``run_id``, ``experiment``, ``started`` (UTC), ``git_commit``,
    ``candlecast`` (the package's version), ``packages`` (name to version), ``versions`` (Delta
    table to the version read or written), ``parameters`` (name to text).
    """

    def __init__(self, *, metadata: dict[str, Any] | None = None):
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        """Read the active run.

        Raises:
            DatasetError: no run is active.
        """
        active = mlflow.active_run()
        if active is None:
            raise DatasetError("Lineage belongs to an MLflow run, and none is active.")
        run = mlflow.get_run(active.info.run_id)
        tags = run.data.tags
        return {
            "candidate": tags["candidate"],
            "run_id": run.info.run_id,
            "experiment": mlflow.get_experiment(run.info.experiment_id).name,
            "started": f"{pd.Timestamp(run.info.start_time, unit='ms'):%Y-%m-%d %H:%M} UTC",
            "git_commit": tags["git_commit"],
            "candlecast": tags["candlecast"],
            "packages": json.loads(tags["packages"]),
            "versions": table_versions(tags),
            "parameters": dict(sorted(run.data.params.items())),
        }

    def save(self, data: None) -> None:
        """Lineage is not written by a node."""
        raise DatasetError("Lineage is read only; hooks write it while the run goes on.")

    def _describe(self) -> dict[str, Any]:
        return {}
