"""From a candidate to the champion, and back: the gate again, the registry, the aliases."""

from candlecast.pipelines.registration.pipeline import create_pipeline, create_rollback

__all__ = ["create_pipeline", "create_rollback"]
