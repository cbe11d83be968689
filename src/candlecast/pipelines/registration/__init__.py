"""From a candidate to the champion, and back."""

from candlecast.pipelines.registration.pipeline import create_pipeline, create_rollback

__all__ = ["create_pipeline", "create_rollback"]
