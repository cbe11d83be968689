"""What decisions on the champion are made from, and what they are: plain values, without MLflow."""

from dataclasses import dataclass, field
from typing import Any

from candlecast.features.windows import Body


@dataclass(frozen=True)
class Candidate:
    """What the MLflow run of a candidate holds.

    Attributes:
        name: its id.
        run_id: of its MLflow run.
        status: of that run; ``FINISHED`` unless its last process failed, was killed or is running.
        tags: of that run: ``git_commit``, ``candlecast``, ``version.<table>`` …
        metrics: all of its ``metrics.json``, flat numbers; none before it was evaluated.
        card: the text of its model card; None: it has no card, or no report to read.
        model_id: of its newest logged model; None: it has none, and nothing of what follows.
        window: candle bodies of the feature ``lags``.
        body: how a body is computed.
        is_reported: whether metrics, report and card are of this model, not of an earlier one.
        version: what an earlier registration, complete or killed, made of the model; None: nothing.
    """

    name: str
    run_id: str
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]
    card: str | None
    model_id: str | None = None
    window: int | None = None
    body: str | None = None
    is_reported: bool = False
    version: int | None = None


@dataclass(frozen=True)
class Aliases:
    """The versions that the aliases of the registered model point to; None: no version.

    Attributes:
        champion: the version that forecasts are made with.
        previous: the champion before it.
        champion_tags: what the registration wrote on the champion.
    """

    champion: int | None = None
    previous: int | None = None
    champion_tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Promotion:
    """A candidate becomes champion.

    Attributes:
        candidate: its version becomes champion; if it has none, one is made.
        former: the current champion; None: there is none. If it is the candidate's own version,
            there is nothing to do.
        tags: for the candidate's version.
    """

    candidate: Candidate
    former: int | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Rollback:
    """The previous version becomes champion again.

    Attributes:
        previous: that version.
        former: the current champion; None: there is none. If it is `previous`, there is nothing to
            do.
        tags: for the current champion.
    """

    previous: int
    former: int | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Champion:
    """A registered version, with what it takes to predict with it, compare it and monitor it.

    Attributes:
        version: of the registered model.
        candidate: the id that it was trained, reported and approved as.
        estimator: its name among those that were tried.
        model: the fitted classifier.
        columns: the names of its input columns, in order: ``lag_01`` …
        features: the names of the features that they are made by.
        window: candle bodies of the feature ``lags``.
        body: how a body is computed.
        profile: of its training set, see `candlecast.evaluation.drift.make_profile`.
        last_trained: the last session that it was trained on (ISO date).
        last_known: the last session that it was tested on (ISO date); later sessions are new to it.
        tags: what the registration wrote on the version (``approver``, ``promoted_at`` …).
    """

    version: int
    candidate: str
    estimator: str
    model: Any
    columns: tuple[str, ...]
    features: list[str]
    window: int
    body: Body
    profile: dict[str, Any]
    last_trained: str
    last_known: str
    tags: dict[str, str]
