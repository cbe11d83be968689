"""candlecast: will the next daily candle close above its open?"""

import ctypes
import gc
import importlib
import os
import re
import warnings

__version__ = "0.2.0"

THIRD_PARTY_WARNINGS = (
    # kedro 1.7 and kedro-mlflow 2.0 call what omegaconf 2.4 has renamed.
    "register_new_resolver() is deprecated",
    # kedro-viz 12.5 uses a response class that fastapi deprecates.
    "ORJSONResponse is deprecated",
    # kedro 1.7 reads a typed parameter's fields in a way that pydantic 2.11 deprecates.
    "Accessing the 'model_fields' attribute on the instance is deprecated",
)
"""Warnings between other packages, by how they begin; nothing here can fix them."""


M_ARENA_MAX = -8
"""From glibc's malloc.h: how many heaps there may be."""


def tune_process() -> None:
    """Set how Python and glibc manage memory in a process that runs pipelines.

    `candlecast.settings` calls it, before any other package starts threads. Python looks for dead
    cycles after 50,000 new objects instead of 700, as a run makes many that stay: 41.4 s instead of
    42.7 s on the sample. All threads allocate from one heap: glibc gives memory of others back in
    part alone.
    """
    gc.set_threshold(50_000, 20, 50)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other systems have none
    if mallopt:
        mallopt(M_ARENA_MAX, 1)


def silence_third_party() -> None:
    """Silence other packages' warnings and telemetry, in child processes as well.

    `candlecast.settings` and `candlecast.__main__` call it; importing the package alone does not.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")  # kedro-telemetry and others
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # mlflow 3.17 retries 7 times, for 4 minutes; 5 times (1 minute) outlast a server's restart.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    for message in THIRD_PARTY_WARNINGS:
        warnings.filterwarnings("ignore", re.escape(message))
    given = os.environ.get("PYTHONWARNINGS", "").split(",")
    wanted = [f"ignore:{message}" for message in THIRD_PARTY_WARNINGS]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, dict.fromkeys([*given, *wanted])))
    # On this import mlflow 3.17 warns of missing type hints, whatever the filters say.
    importlib.import_module("kedro.framework.project")  # it sets showwarning: first
    with warnings.catch_warnings(action="ignore"):
        warnings.showwarning = lambda *_args, **_kwargs: None
        importlib.import_module("kedro_mlflow.framework.hooks")
