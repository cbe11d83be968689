"""Which versions of which tables belong together."""

from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog

from candlecast.errors import IncompatibleRunError
from candlecast.io.delta import DeltaDataset
from candlecast.io.tracking import table_input, table_versions
from candlecast.runtime.hooks import declared


class LineageHooks:
    """Pin the versions that a run reads, stamp what it writes, refuse what does not fit, tag both.

    Optional tables (`missing_ok`) are left alone: they are what earlier runs left.
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Begin with no version known."""
        self._values = context.config_loader.runtime_params
        # Versions by table: known to this run (read, written, or a source of one), and recorded by
        # any process of this candidate.
        self._versions: dict[str, int] = {}
        self._recorded: dict[str, int] = {}

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, conf_catalog: dict[str, Any]) -> None:
        """Keep the catalog, and note the values that shape each table."""
        self._catalog = catalog
        self._made_with = {
            dataset: {name: self._values[name] for name in names}
            for dataset, names in declared(conf_catalog, "made_with").items()
        }
        self._contexts = declared(conf_catalog, "input")

    @hook_impl(trylast=True)
    def before_pipeline_run(self) -> None:
        """Read what the candidate's earlier processes recorded."""
        if active := mlflow.active_run():
            self._recorded = table_versions(active.data.tags)

    @hook_impl
    def before_dataset_loaded(self, dataset_name: str) -> None:
        """Pin a table to the version that this run already knows.

        A shared table is read in the version that this candidate wrote: another job may have
        written it since.
        """
        if (table := self._table(dataset_name)) and not table.optional:
            known = self._versions.get(table.name)
            table.pin = self._recorded.get(table.name, known) if table.is_shared else known

    @hook_impl
    def before_dataset_saved(self, dataset_name: str) -> None:
        """Stamp a commit with the candidate, the versions so far and what shapes the table."""
        if table := self._table(dataset_name):
            table.stamp = {
                "candidate": self._values["candidate"],
                "sources": self._versions,
                "parameters": self._made_with.get(dataset_name, {}),
            }

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        """Note the version that was read; refuse one that does not fit this run.

        What the model is trained and tested on is an input of the MLflow run.
        """
        if (table := self._table(dataset_name)) and not table.optional:
            self._check(table, self._made_with.get(dataset_name, {}))
            self._note(table)
            if mlflow.active_run() and (context := self._contexts.pop(dataset_name, None)):
                version = self._versions[table.name]
                mlflow.log_input(table_input(table.name, table.address, version), context)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Note the version that was written."""
        if table := self._table(dataset_name):
            self._note(table)

    def _table(self, name: str) -> DeltaDataset | None:
        dataset = self._catalog.get(name)
        return dataset if isinstance(dataset, DeltaDataset) else None

    def _check(self, table: DeltaDataset, required: dict[str, Any]) -> None:
        """Require a table made with this run's values, from the versions that it already knows."""
        assert table.commit  # it has just been loaded
        sources = {**table.commit.sources, table.name: table.commit.version}
        known = {name: self._versions.setdefault(name, sources[name]) for name in sources}
        before = {**required, **table.commit.made_with, **sources}
        differences = {
            name: (before[name], now)
            for name, now in {**required, **known}.items()
            if before[name] != now
        }
        if differences:
            raise IncompatibleRunError(
                f"Table {table.name}",
                differences,
                "Run again with the same values, or make the tables again: kedro run (with the "
                "same --env and --params)",
            )

    def _note(self, table: DeltaDataset) -> None:
        assert table.commit  # it has just been loaded or saved
        self._versions[table.name] = self._recorded[table.name] = table.commit.version
        if mlflow.active_run():
            mlflow.set_tag(f"version.{table.name}", table.commit.version)
