"""A candidate on its way to champion: what is known of it, and what is to be done in the registry.

Plain facts, so that the decision is made by functions that know no registry.
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
        has_report: whether the report for the person who approves is there.
        card: the text of its model card; None: there is none.
        model_id: of its newest logged model; None: it has none.
        window: candle bodies that the model sees.
        body: what a body is.
        trained_at: when the model was logged (UTC); None: it has none.
        evaluated_at: when the gate judged the candidate last (UTC); None: never.
        version: of the registered model that was made of `model_id` before, by a registration that
            ended or was killed; None: there is none.
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
    """A version of the registered model.

    Attributes:
        number: of the version.
        tags: as its registration wrote them.
    """

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
        candidate: the candidate. When it has a version, that becomes champion; else one is made.
        former: the champion so far; None: there is none. When it is the candidate's own version,
            nothing is to be done.
        tags: for the version.
    """

    candidate: Candidate
    former: int | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Rollback:
    """A champion that is to make way for the version before it.

    Attributes:
        champion: the version that is to be champion again.
        former: the champion so far; None: there is none. When it is `champion`, nothing is to be
            done.
        tags: for the version that is taken down.
    """

    champion: int
    former: int | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Champion:
    """A registered version, and what to know of it to score, compare and watch it.

    Attributes:
        version: of the registered model.
        candidate: the id that it was trained, reported and approved as.
        model: the fitted classifier.
        features: the names of its input columns, in order: ``lag_01`` … ``lag_NN``.
        window: candle bodies before a session that it sees.
        body: what a body is.
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
