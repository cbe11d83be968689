"""The pipelines by name.

Registration, rollback and forecast are not in ``__default__``, so no plain run promotes a model.
"""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

STAGES = ("data_engineering", "data_science", "reporting")
"""What a plain ``kedro run`` does. Each is a namespace, which ``kedro viz`` can fold."""


def register_pipelines() -> dict[str, Pipeline]:
    """Return the requested pipelines, found by their folder's name in ``pipelines``."""
    try:
        found = find_pipelines(raise_errors=True)
    except ImportError as error:
        if error.__cause__:
            raise
        return {}  # no such folder: Kedro then suggests known names
    for name in STAGES:
        if name in found:
            # Without the flag, datasets would get the prefix as well.
            found[name] = Pipeline(
                found[name], namespace=name, prefix_datasets_with_namespace=False
            )
    if "__default__" in found:
        found["__default__"] = sum((found[name] for name in STAGES), Pipeline([]))
    return found
