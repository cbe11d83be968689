"""A run that can't succeed is refused before its MLflow run begins, with the command to type."""

from collections.abc import Generator
from itertools import dropwhile
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro_mlflow.framework.hooks.utils import _assert_mlflow_enabled
from kedro_mlflow.io.models import MlflowModelTrackingDataset
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from candlecast.errors import IncompatibleRunError, MissingInputError, NoChampionError
from candlecast.io.delta import DeltaDataset
from candlecast.io.tracking import LoggedJSON, find_run, logged_model, table_versions
from candlecast.names import CHAMPION
from candlecast.registry.client import fail_fast, find_version
from candlecast.runtime.hooks import declared
from candlecast.runtime.mlflow_run import command, recorded

STAGES = ("ingest", "preprocess", "train", "evaluate")
"""The tags that a plain run consists of, in order."""

Slices = dict[str, list[str]]
"""Some of the options that leave nodes out, see `candlecast.runtime.mlflow_run.SLICES`."""

Differences = dict[str, tuple[object, object]]
"""What was recorded and what this run has, by name."""


class ResumeHooks:
    """Refuse a run whose inputs are not there, or were made with other values than it has."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Keep the context, which gets kedro-mlflow's settings."""
        self._context = context
        self._parameters: dict[str, Any] = context.config_loader.runtime_params

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, conf_catalog: dict[str, Any]) -> None:
        """Keep the catalog, and what it declares."""
        self._catalog = catalog
        self._need_champion = set(declared(conf_catalog, "requires_champion"))
        self._temporary = {*map(_without_format, declared(conf_catalog, "temporary"))}
        self._made_with = declared(conf_catalog, "made_with")

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline
    ) -> Generator[None]:
        """Find the candidate's run, and refuse this one if it can't succeed.

        Only the lock's hook is called earlier, so that no other process begins the same run.
        """
        self._require(run_params, pipeline)
        yield

    def _require(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        names = run_params["pipeline_names"] or ["__default__"]
        settings = self._context.mlflow  # type: ignore[attr-defined] # kedro-mlflow's
        model = self._parameters["registered_model"]
        with fail_fast():
            run = find_run(self._parameters["candidate"])
            champion = find_version(model, CHAMPION)
        if self._need_champion & pipeline.inputs() and champion is None:
            raise NoChampionError(model)
        if not _assert_mlflow_enabled(names, settings):
            run = None
        elif run:
            settings.tracking.run.id = run.info.run_id
        whole = sum((pipelines[name] for name in names), Pipeline([]))
        cause, part, slices = "", pipeline, {}
        if run_params["only_missing_outputs"]:
            cause = "--only-missing-outputs would keep what other candidates have left"
            part, slices = Pipeline([]), {"tags": self._stages_left(whole, run)}
        elif absent := self._absent_inputs(pipeline, whole, run):
            cause = f"Inputs of this part of the pipeline are not stored: {', '.join(absent)}"
            part, slices = self._larger_part(pipeline, whole, run)
        self._require_same_values(run_params, part, slices, run)
        if cause:
            raise MissingInputError(cause, command(run_params, {}, **slices))

    def _stages_left(self, whole: Pipeline, run: Run | None) -> list[str]:
        """Return the stages from the first that the candidate's run does not hold; []: all."""
        if run is None:
            return []
        tables = table_versions(run.data.tags)
        files = {file.path for file in MlflowClient().list_artifacts(run.info.run_id)}

        def is_done(stage: str) -> bool:
            made = map(self._catalog.get, whole.only_nodes_with_tags(stage).all_outputs())
            return stage != STAGES[-1] and all(
                (not isinstance(each, DeltaDataset) or each.name in tables)
                and (not isinstance(each, LoggedJSON) or each.file_name in files)
                for each in made
            )

        left = list(dropwhile(is_done, STAGES))
        return [] if left == [*STAGES] else left

    def _absent_inputs(self, pipeline: Pipeline, whole: Pipeline, run: Run | None) -> list[str]:
        """Return what the pipeline reads, another part of `whole` makes, and is not there."""
        makes = {*map(_without_format, whole.all_outputs())}
        absent = (name for name in pipeline.inputs() if not self._is_stored(name, run))
        return sorted({*map(_without_format, absent)} & makes)

    def _larger_part(
        self, pipeline: Pipeline, whole: Pipeline, run: Run | None
    ) -> tuple[Pipeline, Slices]:
        """Return this part with what makes its inputs, and the options that select it.

        What it adds from other stages it adds whole: they check what they make.
        """
        larger = pipeline
        while absent := self._absent_inputs(larger, whole, run):
            larger += whole.only_nodes_with_outputs(*absent)
        stages = [stage for stage in STAGES if larger.only_nodes_with_tags(stage).nodes]
        if not all(pipeline.only_nodes_with_tags(stage).nodes for stage in stages):
            of_stages = whole.only_nodes_with_tags(*stages)
            if stages == [*STAGES] or not {*larger.nodes} <= {*of_stages.nodes}:
                return whole, {"tags": []}
            return of_stages, {"tags": stages}
        first = [node.name for node in larger.grouped_nodes[0]]
        if len(whole.from_nodes(*first).nodes) == len(larger.nodes):
            return larger, {"from_nodes": first}
        read = larger.all_inputs()
        last = [node.name for node in larger.nodes if not read & {*node.outputs}]
        return larger, {"from_nodes": first, "to_nodes": last}

    def _is_stored(self, name: str, run: Run | None) -> bool:
        dataset = self._catalog.get(name)
        if dataset is None or isinstance(dataset, MemoryDataset):
            return name.startswith("params:") or name == "parameters"
        if isinstance(dataset, MlflowModelTrackingDataset):
            # Without a run, test_scores tell whose model it would be.
            return run is None or logged_model(run.info.run_id) is not None
        if isinstance(dataset, DeltaDataset):
            return dataset.optional or bool(dataset.exists())
        if _without_format(name) in self._temporary:
            return False
        exists = not isinstance(dataset, AbstractVersionedDataset) or dataset.exists()
        own = run is None or not isinstance(dataset, LoggedJSON) or not exists or dataset.is_of(run)
        return bool(exists and own)

    def _require_same_values(
        self, run_params: dict[str, Any], pipeline: Pipeline, slices: Slices, run: Run | None
    ) -> None:
        """Require the values that the candidate's run and the tables were made with.

        `slices` select the pipeline, if not those of `run_params`.

        Raises:
            IncompatibleRunError: with all that differs, of both.
        """
        tables, versions, names = self._differences_of_tables(pipeline, run)
        owner = run
        if run is None and "candidate" in tables:
            owner = find_run(str(tables["candidate"][0]))
        own = self._differences_from(owner)
        differences = {**tables, **own, **versions}
        if not differences:
            return
        same, own_same = ({name: pair[0] for name, pair in each.items()} for each in (tables, own))
        fix = f"Type: {command(run_params, same | own_same, **slices)}"
        # Tables of another candidate than a begun one do not fit it, whatever the parameters.
        values = recorded(self._parameters) | (run.data.params if run else {})
        if versions or (run and any(values[name] != text for name, text in recorded(same).items())):
            fix = f"Make the tables again: {command(run_params, own_same, tags=[])}"
        elif owner is None:
            fix = f"Make the tables again ({command(run_params, {}, tags=[])}), or type{fix[4:]}"
        subjects = [f"candidate {owner.data.tags['candidate']}"] if own and owner else []
        subjects += [f"table{'s' * (len(names) > 1)} {', '.join(names)}"] if names else []
        raise IncompatibleRunError(" and ".join(subjects), differences, fix)

    def _differences_from(self, run: Run | None) -> Differences:
        """Return the parameters that a candidate's run has recorded with other values."""
        before, now = run.data.params if run else {}, recorded(self._parameters)
        return {
            name: (before[name], now[name])
            for name in sorted(before.keys() & now.keys())
            if before[name] != now[name]
        }

    def _differences_of_tables(
        self, pipeline: Pipeline, run: Run | None
    ) -> tuple[Differences, Differences, list[str]]:
        """Compare the tables that are read, in the order in which they are read.

        Returns:
            The parameters and the table versions that differ, and the tables that have them.
        """
        noted = table_versions(run.data.tags) if run else {}
        known: dict[str, int] = {}
        parameters: Differences = {}
        versions: Differences = {}
        names = []
        inputs = pipeline.inputs()
        for name in (name for node in pipeline.nodes for name in node.inputs if name in inputs):
            table = self._catalog.get(name)
            if not isinstance(table, DeltaDataset) or table.optional:
                continue
            pin = known.get(table.name)
            commit = table.find_commit(noted.get(table.name, pin) if table.is_shared else pin)
            made_with = {key: self._parameters[key] for key in self._made_with.get(name, [])}
            found: Differences = {
                key: (commit.made_with[key], value)
                for key, value in made_with.items()
                if key in commit.made_with and commit.made_with[key] != value
            }
            sources = {**commit.sources, table.name: commit.version}
            moved: Differences = {
                key: (version, known[key])
                for key, version in sources.items()
                if known.setdefault(key, version) != version
            }
            parameters |= found
            versions |= moved
            if (found or moved) and table.name not in names:
                names.append(table.name)
        return parameters, versions, names


def _without_format(name: str) -> str:
    """Return the name of a dataset without Kedro's suffix for how it is read."""
    return name.partition("@")[0]
