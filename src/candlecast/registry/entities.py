"""Facts about a candidate on its way to champion, and decisions on it; no registry is known here.

Functions that decide are tested on these facts alone.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

from sklearn.ensemble import RandomForestClassifier

from candlecast.features.windows import Body


@dataclass(frozen=True)
class Candidate:
    """What the MLflow run of a candidate holds.

    Attributes:
        name: its id.
        run_id: of its MLflow run.
        status: of that run; ``FINISHED`` unless its last process failed, was killed or goes on.
        tags: of that run: ``git_commit``, ``candlecast``, ``version.<table>`` …
        metrics: flat numbers, the gate's among them.
        has_report: whether there is a report for the person who approves.
        card: the text of its model card; None: there is none.
        model_id: of its newest logged model; None: it has none.
        window: candle bodies that the model sees.
        body: how a body is computed.
        trained_at: when the model was logged (UTC); None: it has none.
        evaluated_at: when the gate was last applied (UTC); None: never.
        version: of the registered model that an earlier registration, ended or killed, made of
            `model_id`; None: there is none.
    """

    name: str
    run_id: str
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]
    has_report: bool
    card: str | None
    model_id: str | None
    window: int | None
    body: str | None
    trained_at: dt.datetime | None
    evaluated_at: dt.datetime | None
    version: int | None


@dataclass(frozen=True)
class Version:
    """A version of the registered model, with the tags that its registration wrote."""

    number: int
    tags: dict[str, str]


@dataclass(frozen=True)
class Aliases:
    """Where the aliases of the registered model point to; None: nowhere."""

    champion: Version | None
    previous: Version | None


@dataclass(frozen=True)
class Promotion:
    """A candidate that is to become champion.

    Attributes:
        candidate: its version becomes champion; where it has none, one is made.
        former: the current champion; None: there is none. Where it is the candidate's own version,
            there is nothing to do.
        tags: for the version.
    """

    candidate: Candidate
    former: int | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Rollback:
    """A champion that is to be replaced by the version before it.

    Attributes:
        champion: the version that becomes champion again.
        former: the current champion; None: there is none. Where it is `champion`, there is nothing
            to do.
        tags: for the former champion.
    """

    champion: int
    former: int | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Champion:
    """A registered version, with what it takes to predict with it, compare it and monitor it.

    Attributes:
        version: of the registered model.
        candidate: the id that it was trained, reported and approved as.
        model: the fitted classifier.
        features: the names of its input columns, in order: ``lag_01`` … ``lag_NN``.
        window: candle bodies before a session that it sees.
        body: how a body is computed.
        profile: of its training set, see `candlecast.evaluation.drift.make_profile`.
        last_trained: the last session that it was trained on (ISO date).
        last_known: the last session that it was tested on (ISO date); what comes later is new.
        tags: of the version, as the registration wrote them (``approver``, ``promoted_at`` …).
    """

    version: int
    candidate: str
    model: RandomForestClassifier
    features: tuple[str, ...]
    window: int
    body: Body
    profile: dict[str, Any]
    last_trained: str
    last_known: str
    tags: dict[str, str]
