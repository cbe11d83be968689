"""Kedro's settings of the project: its hooks and its own configuration files."""

from candlecast import silence_third_party

silence_third_party()  # before the hooks import what it quiets

from candlecast.runtime.hooks import (  # noqa: E402
    DataRootHooks,
    LineageHooks,
    ParameterHooks,
    RunHooks,
    SparkHooks,
)
from candlecast.runtime.log import LogHooks  # noqa: E402

# Where several come first (tryfirst) pluggy calls the last of this list first: log, parameters.
# Where several come last (trylast), after kedro-mlflow, it calls the first of it first: the run.
HOOKS = (RunHooks(), LineageHooks(), SparkHooks(), DataRootHooks(), ParameterHooks(), LogHooks())
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)  # it calls home
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*"], "spark": ["spark*"]},
    "merge_strategy": {"mlflow": "soft", "parameters": "soft"},
}
