"""The decisions of a registration and of a rollback, on hand-made facts."""

import json
from dataclasses import replace

import pytest

from candlecast.errors import RegistrationError
from candlecast.parameters import Gate
from candlecast.pipelines.registration.nodes import (
    promote_candidate,
    reapply_gate,
    roll_back,
    validate_candidate,
)
from candlecast.registry.entities import Aliases, Candidate, Promotion, Rollback

GATE = Gate(
    metric="accuracy", threshold=0.0, min_sessions=250, champion_margin=0.03, max_roc_auc=0.75
)
GOOD = {
    "sessions": 300.0,
    "classes": 2.0,
    "distinct_probabilities": 40.0,
    "predicted_up_share": 0.6,
    "bootstrap_confidence": 0.95,
    "accuracy_minus_best_baseline": 0.03,
    "accuracy_minus_best_baseline.low": 0.01,
    "accuracy_minus_best_baseline.high": 0.05,
}
CANDIDATE = Candidate(
    name="new",
    run_id="0f",
    status="FINISHED",
    tags={
        "git_commit": "c0ffee",
        "candlecast": "0.1.0",
        "version.prices": "7",
        "version.train": "5",
        "version.test": "5",
    },
    metrics=GOOD,
    card="# Card",
    model_id="m-1",
    window=14,
    body="return",
    is_reported=True,
)
NOBODY = Aliases()
CHAMPION = Aliases(champion=3, champion_tags={"version_prices": "7", "version_train": "5"})
PASSED = {"passed": True, "reasons": [], "metric": "accuracy", "threshold": 0.0}
FAILED = {
    **PASSED,
    "passed": False,
    "reasons": [
        {"code": "too_few_sessions", "sessions": 9, "required": 250},
        {"code": "one_class"},
    ],
}


def but(**changes):
    return replace(CANDIDATE, **changes)


# --- Validation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("aliases", [NOBODY, CHAMPION], ids=["first", "as new as the champion"])
@pytest.mark.parametrize("commit", [None, "c0ffee"])
def test_a_complete_candidate_is_valid(aliases, commit):
    assert validate_candidate(CANDIDATE, aliases, commit) is CANDIDATE


@pytest.mark.parametrize(
    ("candidate", "cause", "command"),
    [
        (but(status="FAILED"), ["FAILED"], "kedro run"),
        (but(status="RUNNING"), ["RUNNING"], "kedro run"),
        (but(model_id=None), ["model"], "kedro run"),
        (but(card=None), ["report"], "kedro run --tags evaluate"),
        (but(is_reported=False), ["report", "m-1"], "kedro run --tags evaluate"),
    ],
    ids=["failed", "running", "no model", "no report", "trained again"],
)
def test_an_incomplete_candidate_is_refused(candidate, cause, command):
    with pytest.raises(RegistrationError) as error:
        validate_candidate(candidate, NOBODY, None)
    assert error.value.candidate == "new"
    assert [word for word in cause if word not in error.value.cause] == []
    assert f"{command} --params candidate=new" in str(error.value)


def test_another_commit_is_refused():
    with pytest.raises(RegistrationError) as error:
        validate_candidate(CANDIDATE, NOBODY, "decade")
    assert "c0ffee" in error.value.cause
    assert "decade" in error.value.cause


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"version_prices": "8", "version_train": "5"}, ["prices v7", "v8", "version 3"]),
        ({"version_prices": "7", "version_train": "10"}, ["train v5", "v10", "version 3"]),
    ],
    ids=["prices", "train"],
)
def test_a_stale_candidate_is_refused(tags, named):
    with pytest.raises(RegistrationError) as error:
        validate_candidate(CANDIDATE, Aliases(champion=3, champion_tags=tags), None)
    assert [word for word in named if word not in error.value.cause] == []


def test_the_champion_itself_is_valid_whatever_became_of_its_run():
    own = but(version=3, status="FAILED", card=None)
    assert validate_candidate(own, CHAMPION, "decade") is own


# --- Gate -----------------------------------------------------------------------------------------


def test_the_current_gate_is_applied_to_the_candidates_own_metrics():
    decision = reapply_gate(CANDIDATE, NOBODY, GATE)
    assert (decision["passed"], decision["metric"], decision["threshold"]) == (True, "accuracy", 0)
    (reason,) = decision["reasons"]
    assert (reason["code"], reason["low"]) == ("above_threshold", 0.01)
    stricter = reapply_gate(
        CANDIDATE, NOBODY, GATE.model_copy(update={"threshold": 0.02, "min_sessions": 301})
    )
    assert stricter["passed"] is False
    assert stricter["threshold"] == 0.02
    assert [reason["code"] for reason in stricter["reasons"]] == [
        "too_few_sessions",
        "not_above_threshold",
    ]


def test_a_candidate_that_was_compared_with_another_champion_fails():
    compared = but(
        metrics={
            **GOOD,
            "champion.version": 2.0,
            "champion.sessions": 300.0,
            "accuracy_minus_champion": 0.0,
            "accuracy_minus_champion.low": -0.01,
            "accuracy_minus_champion.high": 0.01,
        }
    )
    assert reapply_gate(compared, Aliases(champion=2), GATE)["passed"] is True
    with_third = reapply_gate(compared, CHAMPION, GATE)
    assert with_third["passed"] is False
    assert with_third["reasons"] == [{"code": "other_champion", "champion_version": 3}]


# --- Promotion ------------------------------------------------------------------------------------


def test_a_passed_candidate_is_promoted_by_an_approver():
    promotion = promote_candidate(CANDIDATE, CHAMPION, PASSED, "Ada", None)
    assert promotion == Promotion(
        candidate=CANDIDATE,
        former=3,
        tags={
            "candidate": "new",
            "git_commit": "c0ffee",
            "candlecast": "0.1.0",
            "approver": "Ada",
            "gate": '{"passed": true, "reasons": [], "metric": "accuracy", "threshold": 0.0}',
            "version_prices": "7",
            "version_train": "5",
            "version_test": "5",
            "window": "14",
            "body": "return",
        },
    )


def test_a_failed_candidate_needs_a_reason():
    with pytest.raises(RegistrationError) as error:
        promote_candidate(CANDIDATE, NOBODY, FAILED, "Ada", None)
    assert "9 sessions" in str(error.value)
    assert "--params candidate=new,approver=Ada,override_reason=<why>" in str(error.value)
    promotion = promote_candidate(CANDIDATE, NOBODY, FAILED, "Ada", "the first of all")
    assert promotion.tags["override_reason"] == "the first of all"
    assert json.loads(promotion.tags["gate"])["passed"] is False
    assert promotion.former is None


def test_a_registration_needs_an_approver():
    with pytest.raises(RegistrationError, match="--params approver=") as error:
        promote_candidate(CANDIDATE, NOBODY, PASSED, None, None)
    assert error.value.candidate == "new"


def test_the_champion_is_not_promoted_again():
    own = but(version=3)
    assert promote_candidate(own, CHAMPION, FAILED, None, None) == Promotion(own, 3, {})


def test_long_reasons_fit_into_a_tag():
    """Unity Catalog takes 1,000 characters."""
    first, second = ({"code": name * 600} for name in "ab")
    gate_decision = {**FAILED, "reasons": [first, second]}
    text = promote_candidate(CANDIDATE, NOBODY, gate_decision, "Ada", "why").tags["gate"]
    assert len(text) <= 1000
    assert json.loads(text) == {**FAILED, "reasons": [first]}


# --- Rollback -------------------------------------------------------------------------------------


def test_a_rollback_restores_the_version_before():
    aliases = Aliases(champion=3, previous=2)
    assert roll_back(aliases, "Ada", "worse live") == Rollback(
        previous=2, former=3, tags={"rolled_back_by": "Ada", "rolled_back_reason": "worse live"}
    )
    assert roll_back(aliases, "Ada", None).tags == {"rolled_back_by": "Ada"}
    assert roll_back(Aliases(previous=2), "Ada", None).former is None


def test_a_rollback_needs_an_approver_and_a_previous_version():
    with pytest.raises(RegistrationError, match="--params approver=") as error:
        roll_back(Aliases(champion=3, previous=2), None, None)
    assert error.value.candidate is None
    for aliases in (NOBODY, CHAMPION):
        with pytest.raises(RegistrationError, match="kedro run --pipelines registration"):
            roll_back(aliases, "Ada", None)
