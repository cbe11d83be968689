"""The champion forecasts the next session; forecasts are stored and compared with outcomes."""

from candlecast.pipelines.forecast.pipeline import create_pipeline

__all__ = ["create_pipeline"]
