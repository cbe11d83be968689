"""A candidate on its way to champion: what is known of it, and what is to be done in the registry.

Plain facts, so that the decision is made by functions that know no registry.
"""

import datetime as dt
from dataclasses import dataclass

CHAMPION, PREVIOUS = "champion", "previous"
"""Aliases: the version that forecasts are made with, and the one before it."""

ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""What a candidate's id looks like."""

LONGEST_TEXT = 500
"""Characters of an approver or a reason."""


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
        feature: what a body is.
        trained_at: when the model was logged (UTC); None: it has none.
        judged_at: when the gate judged the candidate last (UTC); None: never.
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
    feature: str | None
    trained_at: dt.datetime | None
    judged_at: dt.datetime | None
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
