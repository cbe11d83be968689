"""Figures, report and model card of a candidate: what a stakeholder reads before approving."""

from candlecast.pipelines.reporting.pipeline import create_pipeline

__all__ = ["create_pipeline"]
