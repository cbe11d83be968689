"""From a source of prices to windows, split by date into train and test."""

from candlecast.pipelines.data_engineering.pipeline import create_pipeline

__all__ = ["create_pipeline"]
