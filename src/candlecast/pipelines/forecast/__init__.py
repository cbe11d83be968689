"""The champion forecasts the next session; its forecasts are kept and compared with outcomes."""

from candlecast.pipelines.forecast.pipeline import create_pipeline

__all__ = ["create_pipeline"]
