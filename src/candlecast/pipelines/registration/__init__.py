"""A candidate becomes champion; `candlecast.pipelines.rollback` is the way back."""

from candlecast.pipelines.registration.pipeline import create_pipeline

__all__ = ["create_pipeline"]
