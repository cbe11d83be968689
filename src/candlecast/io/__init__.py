"""Kedro datasets: Delta tables, and what belongs to an MLflow run."""
