"""The pipeline ``rollback``, in a folder because Kedro finds pipelines by folder."""

from candlecast.pipelines.registration.pipeline import create_rollback as create_pipeline

__all__ = ["create_pipeline"]
