"""Kedro's settings of the project: its hooks and its own configuration files."""

from candlecast import silence_third_party

silence_third_party()  # before the hooks import what it quiets

from candlecast.runtime.hooks import ProjectHooks  # noqa: E402

HOOKS = (ProjectHooks(),)
# They write into the project's folder, or call home.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-viz", "kedro-telemetry")
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*"], "spark": ["spark*"]},
    "merge_strategy": {"mlflow": "soft", "parameters": "soft"},
}
