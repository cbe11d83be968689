"""Names that other systems hold: aliases of the registered model, the form of an id or a text."""

CHAMPION, PREVIOUS = "champion", "previous"
"""Aliases: the version that forecasts are made with, and the one before it."""

CANDIDATE_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""The form of a candidate's id."""

LONGEST_TEXT = 500
"""Characters of an approver or a reason."""
