"""The MLflow run of a candidate: found again, checked, tagged, given its parameters."""

import contextlib
import hashlib
import importlib.metadata
import json
import shlex
import subprocess
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro_mlflow.framework.hooks import mlflow_hook
from kedro_mlflow.io.models import MlflowModelTrackingDataset
from mlflow.entities import RunStatus
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH
from pydantic import BaseModel

from candlecast import __version__
from candlecast.registry.client import fail_fast
from candlecast.runtime.hooks import declared

PACKAGES = ("mlflow", "numpy", "pandas", "pyspark", "delta-spark", "scikit-learn", "kedro")


SLICES = {
    "tags": "--tags",
    "node_names": "--nodes",
    "from_nodes": "--from-nodes",
    "to_nodes": "--to-nodes",
    "from_inputs": "--from-inputs",
    "to_outputs": "--to-outputs",
}
"""The options of ``kedro run`` that leave nodes out, by their names in hooks."""

NOT_TAGS = ("run_id", "project_path", "kedro_version", "runtime_params", "runner")
"""What kedro-mlflow would make tags of: Kedro's own id, an object's address, and known things."""


class RunHooks:
    """One MLflow run per candidate, whatever the number of processes.

    `candlecast.runtime.resuming` finds one that has begun.
    """

    _run_id: str | None = None

    @hook_impl(wrapper=True)
    def after_context_created(self, context: KedroContext) -> Generator[None]:
        """Let kedro-mlflow connect to the store, and name the run."""
        active = mlflow.active_run()
        if active and active.info.run_id == self._run_id:  # interrupted, as in a notebook
            mlflow.end_run(RunStatus.to_string(RunStatus.KILLED))
        with fail_fast():
            yield
        mlflow_hook.run_id = None  # kedro-mlflow 2.0 would reopen the run of an earlier session
        self._project = context.project_path
        self._parameters: dict[str, Any] = context.config_loader.runtime_params
        self._settings = context.mlflow.tracking.run  # type: ignore[attr-defined] # kedro-mlflow's
        self._settings.name = self._parameters["candidate"]

    @hook_impl
    def after_catalog_created(self, conf_catalog: dict[str, Any]) -> None:
        """Note which dataset is the run's description."""
        self._descriptions = declared(conf_catalog, "describes_run")

    @hook_impl(wrapper=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> Generator[None]:
        """Tag the run that kedro-mlflow starts meanwhile, and leave some of its tags out."""
        typed, kept = command(run_params, {}), {name: run_params[name] for name in NOT_TAGS}
        run_params.update(dict.fromkeys(NOT_TAGS))
        resumed = self._settings.id is not None
        yield
        run_params.update(kept)
        active = mlflow.active_run()
        self._run_id = active.info.run_id if active else None
        if active is None:
            return
        mlflow.set_tag("kedro_command", typed)
        trains = any(
            isinstance(catalog.get(name), MlflowModelTrackingDataset)
            for name in pipeline.all_outputs()
        )
        if trains or not resumed:
            tags = provenance(self._project, self._parameters["git_commit"])
            mlflow.set_tags({"candidate": self._parameters["candidate"], **tags})

    @hook_impl(tryfirst=True)
    def before_node_run(self, inputs: dict[str, Any]) -> None:
        """Log a node's parameters in one request, and leave none of them to kedro-mlflow.

        kedro-mlflow 2.0 flattens mappings but not models, cuts long values, and sends one request
        per name. The inputs are Kedro's copy for hooks.
        """
        names = [name for name in inputs if name.startswith("params:")]
        given = {name.removeprefix("params:"): inputs.pop(name) for name in names}
        if self._run_id:
            mlflow.log_params(recorded(given), run_id=self._run_id)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Show the text that describes the run at the top of its page."""
        if self._run_id and dataset_name in self._descriptions:
            mlflow.set_tag(MLFLOW_RUN_NOTE, data)


def recorded(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return parameters as MLflow records them: texts that a command line could give.

    Those of a group have names like ``gate.threshold``. A list that is too long for MLflow (some
    1,000 tickers) is recorded by its length and digest.
    """
    texts: dict[str, str] = {}
    for name, value in parameters.items():
        group = value.model_dump() if isinstance(value, BaseModel) else value
        if isinstance(group, dict):
            texts |= recorded(group, f"{prefix}{name}.")
            continue
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        if len(text) > MAX_PARAM_VAL_LENGTH:
            text = f"{len(value)} values, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"
        texts[prefix + name] = text
    return texts


def command(
    run_params: Mapping[str, Any], parameters: Mapping[str, object], **slices: list[str]
) -> str:
    """Return the command of a run with other parameters, and with other `SLICES` if any are given.

    >>> command({"env": "yahoo", "tags": ["train"]}, {"window": 10, "start": None})
    'kedro run --env yahoo --tags train --params window=10,start=null'
    """
    words = ["kedro", "run"]
    if run_params.get("env"):
        words += ["--env", run_params["env"]]
    if run_params.get("pipeline_names"):
        words += ["--pipelines", ",".join(run_params["pipeline_names"])]
    for name, option in SLICES.items():
        if values := (slices.get(name) if slices else run_params.get(name)):
            words += [option, ",".join(values)]
    given = recorded(run_params.get("runtime_params") or {}) | recorded(parameters)
    texts = {name: "null" if text == "None" else text for name, text in given.items()}
    texts |= {name: "<as before>" for name, text in texts.items() if "SHA-256" in text}
    if texts:
        words += ["--params", ",".join(f"{name}={text}" for name, text in texts.items())]
    return shlex.join(words)


def provenance(project: Path, git_commit: str | None) -> dict[str, str]:
    """Return tags for the code and the packages that make a candidate.

    ``git_dirty`` says whether tracked files of the project differ from the commit.

    Args:
        project: the project's folder.
        git_commit: the commit of the code, where git can't be asked.
    """
    commit, dirty = git_commit, "unknown"
    if commit is None and (commit := _git(project, "rev-parse", "HEAD")):
        changes = _git(project, "status", "--porcelain", "--untracked-files=no", "--", ".")
        dirty = str(changes != "").lower()
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # the platform's own
            packages[name] = importlib.metadata.version(name)
    return {
        "git_commit": commit or "unknown",
        "git_dirty": dirty,
        "candlecast": __version__,
        "packages": json.dumps(packages),
    }


def _git(project: Path, *words: str) -> str | None:
    """Return what git prints; None without git or a repository."""
    with contextlib.suppress(OSError):
        command = ["git", "-C", str(project), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return None
