"""Estimators are validated walk-forward; one is chosen, refitted and tested once."""

from candlecast.pipelines.data_science.pipeline import create_pipeline

__all__ = ["create_pipeline"]
