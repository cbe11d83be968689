"""The pipelines by name.

What promotes a model or acts on one stays out of ``__default__``, so that no plain run can.
"""

from kedro.pipeline import Pipeline

from candlecast.pipelines import (
    data_engineering,
    data_science,
    forecast,
    registration,
    reporting,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Map each pipeline's name to the pipeline.

    ``__default__`` is what a plain ``kedro run`` does.
    """
    default = {
        "data_engineering": data_engineering.create_pipeline(),
        "data_science": data_science.create_pipeline(),
        "reporting": reporting.create_pipeline(),
    }
    return {
        **default,
        "registration": registration.create_pipeline(),
        "rollback": registration.create_rollback(),
        "forecast": forecast.create_pipeline(),
        "__default__": sum(default.values(), Pipeline([])),
    }
