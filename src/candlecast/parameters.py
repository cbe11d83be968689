"""What a run may be told: the keys of ``parameters.yml``, their types, units and ranges."""

import datetime as dt
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from candlecast.errors import CandlecastError


class ParameterError(CandlecastError):
    """A parameter is unknown, of a wrong type or out of range; the message has a line each."""


def _split(value: object) -> object:
    return value.split() if isinstance(value, str) else value


def _date(value: object) -> object:
    if value is None:
        return None
    try:
        return dt.date.fromisoformat(str(value)).isoformat()
    except ValueError as error:
        raise ValueError("must be a date written YYYY-MM-DD") from error


Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Date = Annotated[str | None, BeforeValidator(_date)]
Ticker = Annotated[str, Field(min_length=1, max_length=64)]


class Group(BaseModel):
    """Parameters that belong together.

    Types are strict: a string is no number.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class Parameters(Group):
    """Every parameter of the project; ``conf/base/parameters.yml`` says what each one is for."""

    candidate: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None
    data_root: Annotated[str, Field(min_length=1)]
    tables: Annotated[str, Field(min_length=1)]
    tickers: Annotated[list[Ticker], BeforeValidator(_split), Field(min_length=1)]
    start: Date
    end: Date
    allow_missing_tickers: bool
    max_missing_share: Annotated[float, Field(ge=0, le=1)]
    window: Count
    feature: Literal["return", "delta"]
    test_fraction: Fraction
    purge: Annotated[int, Field(ge=0)]
    candidate_trees: Annotated[list[Count], Field(min_length=1)]
    min_weight_fraction_leaf: Annotated[float, Field(ge=0, lt=0.5)]
    seed: Annotated[int, Field(ge=0)]
    folds: Annotated[int, Field(ge=2)]
    min_training_sessions: Count

    @field_validator("candidate", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return (
            str(value) if isinstance(value, int) else value
        )  # --params candidate=123 arrives as an int

    @field_validator("tickers")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        if twice := sorted({ticker for ticker in value if value.count(ticker) > 1}):
            raise ValueError(f"names {', '.join(twice)} more than once")
        return value

    @field_validator("candidate_trees")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError("must be ascending, each size once")
        return value

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        # ISO dates sort as text.
        today = dt.datetime.now(dt.UTC).date().isoformat()
        if self.start and self.start > today:
            raise ValueError(f"start ({self.start}) lies in the future; today is {today} (UTC)")
        if self.start and self.end and self.start >= self.end:
            raise ValueError(
                f"start ({self.start}) must be before end ({self.end}); end is inclusive"
            )
        return self


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parameters of a run, all at once, before anything is read or written.

    Args:
        given: the merged parameters of configuration and command line.

    Returns:
        The same parameters; ``tickers`` is a list even when they came as one string, separated by spaces.

    Raises:
        ParameterError: one line a fault: what was asked, what came, and the near match of an unknown key.
    """
    try:
        return Parameters.model_validate(dict(given)).model_dump()
    except ValidationError as error:
        lines = [_line(fault) for fault in error.errors()]
        raise ParameterError("The parameters are not usable:\n  " + "\n  ".join(lines)) from None


def _line(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = get_close_matches(key, Parameters.model_fields, n=1, cutoff=0.5)
        return f"{key}: unknown parameter" + (f"; did you mean {near[0]}?" if near else "")
    if fault["type"] == "missing":
        return f"{key}: is missing"
    words = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return words if not key else f"{key}: {words}; it is {fault['input']!r}"
