"""Kedro's settings of the project: its hooks and its own configuration files."""

from candlecast import silence_third_party, tune_process

tune_process()
silence_third_party()  # before the hooks import the packages that it silences

from candlecast.runtime.data_root import DataRootHooks  # noqa: E402
from candlecast.runtime.hooks import MemoryHooks, ParameterHooks, SparkHooks  # noqa: E402
from candlecast.runtime.interrupts import InterruptHooks  # noqa: E402
from candlecast.runtime.lineage import LineageHooks  # noqa: E402
from candlecast.runtime.log import LogHooks  # noqa: E402
from candlecast.runtime.mlflow_run import RunHooks  # noqa: E402
from candlecast.runtime.resuming import ResumeHooks  # noqa: E402
from candlecast.runtime.upkeep import UpkeepHooks  # noqa: E402

# Of hooks marked tryfirst, pluggy calls the last one here first: the log, the parameters, signals.
# Wrappers begin before all others: the lock, then what refuses a run, then the MLflow run. Of what
# follows a run, old files go first, while the lock is held.
HOOKS = (
    RunHooks(),
    LineageHooks(),
    ResumeHooks(),
    MemoryHooks(),
    SparkHooks(),
    DataRootHooks(),
    UpkeepHooks(),
    InterruptHooks(),
    ParameterHooks(),
    LogHooks(),
)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)  # it calls home
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*"], "spark": ["spark*"]},
    "merge_strategy": {"mlflow": "soft", "parameters": "soft"},
}
