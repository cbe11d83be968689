"""Files that the tables of a local data root no longer need go at the end of a run."""

import logging
import time
from collections import defaultdict
from pathlib import Path

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from candlecast.errors import DamageError
from candlecast.io.delta import DeltaDataset
from candlecast.io.delta_log import remove_old_files
from candlecast.io.tracking import table_versions

logger = logging.getLogger(__name__)

DAY = 86_400


class UpkeepHooks:
    """Remove what tables no longer need."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Note the model whose versions are protected, and for how long others are."""
        parameters = context.config_loader.runtime_params
        self._model_name = parameters["registered_model"]
        self._keep_days = parameters["keep_versions_days"]

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Keep the catalog."""
        self._catalog = catalog

    @hook_impl(tryfirst=True)
    def after_pipeline_run(self, pipeline: Pipeline) -> None:
        """Remove old files of the tables that this run wrote, while it holds the lock."""
        written = {
            table.address: table.name
            for table in map(self._catalog.get, pipeline.all_outputs())
            if isinstance(table, DeltaDataset) and table.is_folder
        }
        if not written:
            return
        since = time.time() - self._keep_days * DAY
        try:
            kept = kept_versions(self._model_name, since)
            for address, name in written.items():
                remove_old_files(Path(address), since, kept[name])
        except (MlflowException, OSError, DamageError) as error:
            logger.warning("Old versions of tables were not removed: %s", error)


def kept_versions(model_name: str, since: float) -> defaultdict[str, set[int]]:
    """Return the versions of each table that stay readable, however old.

    They are those of every registered version of the model, and of every candidate whose run ended
    after a time (Unix seconds): a decision on it may still be due.
    """
    client, kept = MlflowClient(), defaultdict[str, set[int]](set)
    for found in client.search_model_versions(f"name='{model_name}'"):
        # In Unity Catalog those that a search finds have no tags.
        version = client.get_model_version(model_name, found.version)
        for name, value in version.tags.items():
            if name.startswith("version_"):
                kept[name.removeprefix("version_")].add(int(value))
    recent = f"tags.candidate LIKE '%' AND attributes.end_time >= {int(since * 1000)}"
    for run in mlflow.search_runs(filter_string=recent, output_format="list"):
        for name, number in table_versions(run.data.tags).items():
            kept[name].add(number)
    return kept
