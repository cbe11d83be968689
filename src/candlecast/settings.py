"""Kedro's settings of the project: its hooks and its own configuration files."""

from candlecast.hooks import ProjectHooks

HOOKS = (ProjectHooks(),)
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*"], "spark": ["spark*"]},
}
