"""Runs a pipeline in child processes, each of which kills itself at another write to the registry.

``python killed_registration.py <store> <folder> <pipeline> <parameters as JSON>`` copies the SQLite
file `store` for each child and prints a JSON list, one item per child: ``step`` (before or after
which write), and what the registry holds after the kill (``killed``) and after the same command has
run again (``finished``). The last child finishes without a kill; its step is empty.

Children are forked, as the imports take longer than a registration.
"""

import itertools
import json
import os
import shutil
import signal
import sqlite3
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import candlecast

candlecast.silence_third_party()

from kedro.framework.project import pipelines  # noqa: E402
from kedro.framework.session import KedroSession  # noqa: E402
from kedro.framework.startup import bootstrap_project  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

ROOT = Path(__file__).parents[1]
WRITES = (
    *("create_registered_model", "create_model_version", "update_model_version"),
    *("set_model_version_tag", "delete_model_version_tag", "set_registered_model_alias"),
)


def kill_at(step: int) -> None:
    """Make this process kill itself at one step: before or after a write to the registry."""
    steps = itertools.count()

    def stop(what: str) -> None:
        if next(steps) == step:
            print(what, flush=True)  # noqa: T201 # the parent reads it
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(name: str) -> Any:
        inner = getattr(MlflowClient, name)

        def call(*arguments: Any, **named: Any) -> Any:
            stop(f"before {name}")
            answer = inner(*arguments, **named)
            stop(f"after {name}")
            return answer

        return call

    for name in WRITES:
        setattr(MlflowClient, name, wrapped(name))


def child(data_root: Path, pipeline: str, parameters: dict[str, Any], step: int | None) -> str:
    """Run the pipeline in a forked process; return where it killed itself, or an empty text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(writing, 1)
        try:
            if step is not None:
                kill_at(step)
            runtime = {"data_root": str(data_root), **parameters}
            with KedroSession.create(project_path=ROOT, runtime_params=runtime) as session:
                session.run(pipeline_names=[pipeline])
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as output:
        where = output.read().strip()
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed == bool(where), (status, where)
    assert killed or os.waitstatus_to_exitcode(status) == 0
    return where


def registry(data_root: Path) -> dict[str, Any]:
    """Read the registry without MLflow, as a process that forks must not have its store open."""
    with closing(sqlite3.connect(data_root / "mlflow/mlflow.db")) as store:
        versions = [
            number for (number,) in store.execute("SELECT version FROM model_versions ORDER BY 1")
        ]
        aliases = dict(store.execute("SELECT alias, version FROM registered_model_aliases"))
        tags: dict[int, dict[str, str]] = {number: {} for number in versions}
        for number, key, value in store.execute(
            "SELECT version, key, value FROM model_version_tags"
        ):
            tags[number][key] = value
    return {"versions": versions, "aliases": aliases, "tags": tags}


def main(store: str, folder: str, pipeline: str, text: str) -> None:
    """Kill one child at each step, until there is no such step."""
    parameters, found = json.loads(text), []
    bootstrap_project(ROOT)
    dict(pipelines)  # imports what the children need
    for step in itertools.count():
        data_root = Path(folder, str(step))
        (data_root / "mlflow").mkdir(parents=True)
        shutil.copy(store, data_root / "mlflow")
        where = child(data_root, pipeline, parameters, step)
        killed = registry(data_root)
        if where:
            child(data_root, pipeline, parameters, None)
        found.append({"step": where, "killed": killed, "finished": registry(data_root)})
        if not where:
            break
    print(json.dumps(found))  # noqa: T201 # the test reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
