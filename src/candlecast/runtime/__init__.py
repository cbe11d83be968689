"""What surrounds a run: Spark, the lock, MLflow's run, the log."""
