"""Kedro's settings of the project: its hooks, and the configuration file of its own (``spark.yml``)."""

import warnings

from candlecast.hooks import ProjectHooks

# kedro 1.7 and kedro-mlflow 2.0 call what omegaconf 2.4 renamed; gone when they call register_resolver.
warnings.filterwarnings("ignore", message=r"register_new_resolver\(\) is deprecated", category=UserWarning)
# mlflow 3.17 asks kedro-mlflow 2.0 for type hints that are not ours to write.
warnings.filterwarnings("ignore", message=r".*Add type hints to the `predict` method", category=UserWarning)

HOOKS = (ProjectHooks(),)
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*"], "spark": ["spark*"]},
}
