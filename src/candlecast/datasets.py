"""Kedro datasets: sources of prices, Delta tables, and what a candidate's MLflow run holds."""

import contextlib
import datetime as dt
import importlib.metadata
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
import pyarrow as pa
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets.json import JSONDataset
from kedro_datasets.partitions import PartitionedDataset
from kedro_mlflow.io.models import MlflowModelTrackingDataset
from mlflow.entities import LoggedModel, Metric, Run
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient

from candlecast.checks import COLUMNS, Source
from candlecast.errors import NoSessionsError, UnknownTickerError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from sklearn.ensemble import RandomForestClassifier

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


class DeltaDataset(AbstractDataset[Any, Any]):
    """A Delta table, a path on a laptop and a three-level name on Databricks; a save is a commit.

    No dataset of kedro-datasets does both places, replacement by value and commit stamps:
    SparkDatasetV2 knows paths only, ManagedTableDataset names only.

    Args:
        table: a folder, or ``<catalog>.<schema>.<table>``.
        schema: the columns in DDL. What is saved is refused unless it has exactly these; types are
            cast.
        replace_by: a column; a save replaces the rows of the values that it brings and keeps the
            others. Without it a save replaces the table.
        keys: the columns that Delta keeps statistics for (the others are wide, never filtered on).
        as_pandas: load a pandas frame instead of a Spark one.
        missing_ok: load None when there is no table yet.
        as_known: the table's name; load the version that what was read before came from, though
            there may be a newer one.

    ``version``, ``rows`` (None with `replace_by`, whose commits write a part), ``sources`` (the
    versions of the tables known to the run that wrote it) and ``made_with`` (its candidate and
    parameters) tell what was last loaded or saved; ``stamp`` is stored with the next commits. They
    are of the last commit that changed rows: what is done to keep a table fast is no new version.
    """

    _SINGLE_PROCESS = True

    def __init__(
        self,
        *,
        table: str,
        schema: str | None = None,
        replace_by: str | None = None,
        keys: str | None = None,
        as_pandas: bool = False,
        missing_ok: bool = False,
        as_known: str | None = None,
        metadata: dict[str, Any] | None = None,
    ):
        self.as_known = as_known
        self.known: int | None = None
        self._table = table
        self._schema = schema
        self._replace_by = replace_by
        self._keys = keys
        self._as_pandas = as_pandas
        self.optional = missing_ok
        self.metadata = metadata
        self.version: int | None = None
        self._newest: int | None = None
        self.rows: int | None = None
        self.sources: dict[str, int] = {}
        self.made_with: dict[str, Any] = {}
        self.stamp: str | None = None

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
        """Load the newest version, pinned: a later commit does not change what this frame holds.

        Raises:
            DatasetError: there is no such table, or Spark can't read it.
        """
        with _spark_s_words(f"Table {self._table} can't be read"):
            if self.optional and not self._exists():
                return None
            self._note_last_commit()
            version = self._newest if self.known in (None, self.version) else self.known
            frame = self._spark.read.option("versionAsOf", str(version)).table(self._sql_name)
            return frame.toArrow().to_pandas(date_as_object=False) if self._as_pandas else frame

    def save(self, data: "DataFrame | pd.DataFrame") -> None:
        """Write `data` in one commit.

        Raises:
            DatasetError: the columns are not those of the schema, or Spark can't write them.
        """
        with _spark_s_words(f"Table {self._table} can't be written"):
            self._write(data)

    def _write(self, data: "DataFrame | pd.DataFrame") -> None:
        frame = self._spark_frame(data)
        writer = frame.write.format("delta").mode("overwrite")
        if self.stamp:
            writer = writer.option("userMetadata", self.stamp)
        if self._keys:
            writer = writer.option("delta.dataSkippingStatsColumns", self._keys)
        if self._replace_by and self._exists():
            values = [row[0] for row in frame.select(self._replace_by).distinct().collect()]
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
        self._note_last_commit()

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

    def _note_last_commit(self) -> None:
        if not self._exists():
            raise DatasetError(
                f"There is no table {self._table} yet. To go on, run the pipeline that writes it: "
                "kedro run"
            )
        commits = list(self._last_commits())
        commit = commits[-1]  # it changed rows, or the change is older than the log reaches
        self._newest, self.version = int(commits[0]["version"]), int(commit["version"])
        rows = (commit["operationMetrics"] or {}).get("numOutputRows")
        self.rows = None if rows is None or self._replace_by else int(rows)
        stamp = json.loads(commit["userMetadata"] or "{}")
        self.sources = stamp.get("sources", {})
        self.made_with = stamp.get("parameters", {})
        if "candidate" in stamp:
            self.made_with["candidate"] = stamp["candidate"]

    def _last_commits(self) -> Iterator[dict[str, Any]]:
        """Tell the commits, the newest first, back to the last that changed rows.

        A folder's come from its own log, which spares a Spark job of 0.4 s.
        """
        for commit in self._commits():
            yield commit
            if commit["operation"] not in MAINTENANCE:
                return

    def _commits(self) -> Iterator[dict[str, Any]]:
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


@contextlib.contextmanager
def _spark_s_words(failure: str) -> Iterator[None]:
    """Say what Spark says of a failure, less the stack of its server that Spark Connect adds."""
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        said = str(error).partition("\n\nJVM stacktrace:")[0].strip()
        raise DatasetError(f"{failure}: {said}") from error


class TableVersion(AbstractDataset[None, int]):
    """The version of a Delta table that was committed last, for what notes where it came from.

    Args:
        table: as for `DeltaDataset`.
    """

    def __init__(self, *, table: str, metadata: dict[str, Any] | None = None):
        self._of = DeltaDataset(table=table)
        self.metadata = metadata

    def load(self) -> int:
        """Tell the version.

        Raises:
            DatasetError: there is no such table.
        """
        with _spark_s_words(f"Table {self._of._table} can't be read"):
            self._of._note_last_commit()
        assert self._of.version is not None
        return self._of.version

    def save(self, data: None) -> None:
        """A version is made by a commit."""
        raise DatasetError("A table's version is read only.")

    def _describe(self) -> dict[str, Any]:
        return self._of._describe()


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
        model = logged_model(run)
        if model is None:
            raise DatasetError(
                f"The MLflow run {run.info.run_id} has no model. To go on, train one: "
                "kedro run --tags train, with the same candidate."
            )
        return mlflow.sklearn.load_model(model.model_uri)


def logged_model(run: Run) -> LoggedModel | None:
    """Return the newest model that was logged to a run; None when there is none."""
    models: list[LoggedModel] = mlflow.search_logged_models(
        experiment_ids=[run.info.experiment_id],
        filter_string=f"source_run_id='{run.info.run_id}'",
        max_results=1,
        output_format="list",
    )
    return models[0] if models else None


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
            "versions": {
                name.removeprefix("version."): int(value)
                for name, value in sorted(tags.items())
                if name.startswith("version.")
            },
            "parameters": dict(sorted(run.data.params.items())),
        }

    def save(self, data: None) -> None:
        """Lineage is not written by a node."""
        raise DatasetError("Lineage is read only; hooks write it while the run goes on.")

    def _describe(self) -> dict[str, Any]:
        return {}
