"""Candidates, the champion, promotion and rollback on MLflow's model registry."""
