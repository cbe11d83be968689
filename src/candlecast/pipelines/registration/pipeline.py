"""candidate_run, aliases → gate decision → promotion; rollback: aliases → rollback."""

from kedro.pipeline import Pipeline, node

from candlecast.pipelines.registration.nodes import (
    promote_candidate,
    reapply_gate,
    roll_back,
    validate_candidate,
)


def create_pipeline() -> Pipeline:
    """Validate a candidate, apply the gate again, register it and make it champion.

    ``kedro run --pipelines registration --params
    "candidate=<id>,approver=<who>[,override_reason=<why>]"``; ``--params`` splits texts at commas.
    Running it twice changes nothing more, and after a kill the same command finishes the job: the
    candidate gets one version, and the alias ``champion`` is moved last.
    """
    return Pipeline(
        [
            node(
                validate_candidate,
                {
                    "candidate": "candidate_run",
                    "aliases": "aliases",
                    "git_commit": "params:git_commit",
                },
                "valid_candidate",
                name="validate_candidate",
            ),
            node(
                reapply_gate,
                {"candidate": "valid_candidate", "aliases": "aliases", "gate": "params:gate"},
                "current_gate_decision",
                name="reapply_gate",
            ),
            node(
                promote_candidate,
                {
                    "candidate": "valid_candidate",
                    "aliases": "aliases",
                    "gate_decision": "current_gate_decision",
                    "approver": "params:approver",
                    "override_reason": "params:override_reason",
                },
                "promotion",
                name="promote_candidate",
            ),
        ]
    )


def create_rollback() -> Pipeline:
    """Make the version before the champion the champion again.

    ``kedro run --pipelines rollback --params "approver=<who>[,override_reason=<why>]"``. Running it
    twice changes nothing more.
    """
    return Pipeline(
        [
            node(
                roll_back,
                {
                    "aliases": "aliases",
                    "approver": "params:approver",
                    "override_reason": "params:override_reason",
                },
                "rollback",
                name="roll_back",
            )
        ]
    )
