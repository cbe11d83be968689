"""candidate_run, aliases → gate_decision → moved_aliases; rollback: aliases → moved_aliases."""

from kedro.pipeline import Pipeline, node

from candlecast.pipelines.registration.nodes import (
    apply_gate_again,
    promote_candidate,
    roll_back,
    validate_candidate,
)


def create_pipeline() -> Pipeline:
    """Check a candidate, judge it again, register it and make it champion.

    ``kedro run --pipelines registration --params
    "candidate=<id>,approver=<who>[,override_reason=<why>]"``; no text may hold a comma, which is
    what separates parameters. Doing it twice is harmless, and after a kill the same command
    finishes the job: the candidate gets one version, and the alias ``champion`` is moved last.
    """
    return Pipeline(
        [
            node(
                validate_candidate,
                ["candidate_run", "aliases", "params:git_commit"],
                "fit_candidate",
                name="validate_candidate",
            ),
            node(
                apply_gate_again,
                ["fit_candidate", "aliases", "params:gate"],
                "gate_decision",
                name="apply_gate_again",
            ),
            node(
                promote_candidate,
                {
                    "candidate": "fit_candidate",
                    "aliases": "aliases",
                    "gate_decision": "gate_decision",
                    "approver": "params:approver",
                    "override_reason": "params:override_reason",
                },
                "moved_aliases",
                name="promote_candidate",
            ),
        ]
    )


def create_rollback() -> Pipeline:
    """Make the version before the champion the champion again.

    ``kedro run --pipelines rollback --params "approver=<who>[,override_reason=<why>]"``; no text
    may hold a comma. Doing it twice is harmless: the second time the champion is the previous
    version already.
    """
    return Pipeline(
        [
            node(
                roll_back,
                ["aliases", "params:approver", "params:override_reason"],
                "moved_aliases",
                name="roll_back",
            )
        ]
    )
