"""candlecast: will the next daily candle close above its open?"""

import importlib
import warnings

__version__ = "0.1.0"


def quiet() -> None:
    """Silence what other packages say to each other. Kedro calls it before it loads its plugins."""
    # kedro 1.7 and kedro-mlflow 2.0 call what omegaconf 2.4 renamed; gone when they don't.
    warnings.filterwarnings("ignore", r"register_new_resolver\(\) is deprecated", UserWarning)
    # mlflow 3.17 asks kedro-mlflow 2.0 for type hints, and puts its own filter before any other.
    with warnings.catch_warnings(action="ignore"):
        warnings.showwarning = lambda *_args, **_kwargs: None
        importlib.import_module("kedro_mlflow.framework.hooks")
