"""The champion: the registered version of the model that forecasts are made with."""

from dataclasses import dataclass
from typing import Any

from sklearn.ensemble import RandomForestClassifier

from candlecast.windows import Feature


@dataclass(frozen=True)
class Champion:
    """A registered version, and what to know of it to score, compare and watch it.

    Attributes:
        version: of the registered model.
        candidate: the id that it was trained, reported and approved as.
        forest: the fitted forest.
        lags: the names of its input columns, in order: ``lag_01`` … ``lag_NN``.
        window: candle bodies before a session that it sees.
        feature: what a body is.
        profile: the distribution of its training set, see `candlecast.drift.profile`.
        last_trained: the last session that it was trained on (ISO date).
        last_known: the last session that it was tested on (ISO date); what comes later is new.
        tags: of the version, as the registration wrote them (``approver``, ``promoted_at`` …).
    """

    version: int
    candidate: str
    forest: RandomForestClassifier
    lags: tuple[str, ...]
    window: int
    feature: Feature
    profile: dict[str, Any]
    last_trained: str
    last_known: str
    tags: dict[str, str]
