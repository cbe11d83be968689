"""Make the champion's predecessor the champion again; of registration's own nodes."""

from candlecast.pipelines.registration.pipeline import create_rollback as create_pipeline

__all__ = ["create_pipeline"]
