"""The pipelines by name.

What promotes a model or acts on one stays out of ``__default__``, so that no plain run can.
"""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

STAGES = ("data_engineering", "data_science", "reporting")
"""What a plain ``kedro run`` does. Each is a namespace of its nodes, which ``kedro viz`` folds."""


def register_pipelines() -> dict[str, Pipeline]:
    """Map the name of each folder of ``pipelines`` that is asked for to its pipeline."""
    try:
        found = find_pipelines(raise_errors=True)
    except ImportError as error:
        if error.__cause__:
            raise
        return {}  # no such folder: Kedro then suggests the names that there are
    for name in STAGES:
        if name in found:
            # Without the flag datasets would be renamed as well.
            found[name] = Pipeline(
                found[name], namespace=name, prefix_datasets_with_namespace=False
            )
    if "__default__" in found:
        found["__default__"] = sum((found[name] for name in STAGES), Pipeline([]))
    return found
