"""Candidates tried by walk-forward validation, one chosen, refitted and scored once on the test
set."""

from candlecast.pipelines.data_science.pipeline import create_pipeline

__all__ = ["create_pipeline"]
