"""The parameters of a run: the keys of ``parameters.yml``, their types, units and ranges."""

import datetime as dt
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from candlecast.errors import FeatureError, ParameterError
from candlecast.features.computing import find_features
from candlecast.models.estimators import make_estimators, try_out
from candlecast.names import CANDIDATE_ID, LONGEST_TEXT


def _split(value: object) -> object:
    """Split texts at spaces, semicolons and commas (in ``--params`` commas split parameters)."""
    if value is None:  # --params tickers=
        return []
    items: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items):
        return value
    return [part for item in items for part in re.split(r"[\s,;]+", item) if part]


def _text(value: object) -> object:
    """Accept a whole number as text (``candidate=123``), and a blank text as None."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):  # the text may have been 1.1 or 1.10, 1e5 or 100000.0
        raise ValueError("was read as a number: put the text in single quotes")
    return str(value) if type(value) is int else value


def _read(value: object) -> object:
    """Read the number, boolean or null in a text: ``--set window=10``."""
    if isinstance(value, str):
        with suppress(ValueError):
            return json.loads(value)
    return value


def _time(value: object) -> object:
    """Accept a UTC time to the second."""
    if value in (None, ""):
        return None
    with suppress(ValueError):
        time = dt.datetime.fromisoformat(str(value))
        if time.utcoffset() == dt.timedelta() and time.microsecond == 0:
            return time.isoformat()
    raise ValueError("must be a time in UTC written YYYY-MM-DDTHH:MM:SS+00:00")


def _date(value: object) -> object:
    """Accept only YYYY-MM-DD, as nodes and the configuration see the text unchanged."""
    if value in (None, ""):  # a job gives a parameter without a value as an empty text
        return None
    with suppress(ValueError):
        if dt.date.fromisoformat(str(value)).isoformat() == value:
            return value
    raise ValueError("must be a date written YYYY-MM-DD")


def _since(value: object) -> object:
    return value if value == "champion" else _date(value)


Integer = Annotated[int, BeforeValidator(_read)]
Number = Annotated[float, BeforeValidator(_read)]
Flag = Annotated[bool, BeforeValidator(_read)]
Fraction = Annotated[Number, Field(gt=0, lt=1)]
Count = Annotated[Integer, Field(ge=1)]
Date = Annotated[str | None, BeforeValidator(_date)]
Time = Annotated[str | None, BeforeValidator(_time)]
Text = Annotated[
    Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)] | None, BeforeValidator(_text)
]
Ticker = Annotated[str, Field(min_length=1, max_length=64)]
Column = Literal[
    "ticker",
    "session",
    "open",
    "high",
    "low",
    "close",
    "adj_close",
    "volume",
    "dividends",
    "stock_splits",
]


class Group(BaseModel):
    """Parameters that belong together.

    Types are strict, except that a text may hold a number: command lines give texts.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class Evaluation(Group):
    """How predictions on the test set are evaluated."""

    repetitions: Annotated[Integer, Field(ge=1000)]
    cost_bps: Annotated[Number, Field(ge=0)]


class Gate(Group):
    """When a candidate passes."""

    metric: Literal["accuracy", "roc_auc"]
    threshold: Annotated[Number, Field(ge=0, lt=1)]
    min_sessions: Count
    champion_margin: Annotated[Annotated[float, Field(ge=0, lt=1)] | None, BeforeValidator(_read)]
    max_roc_auc: Annotated[Number, Field(gt=0.5, le=1)]


class Monitoring(Group):
    """When a champion should be retrained."""

    max_psi: Annotated[Number, Field(gt=0)]
    max_share_up_shift: Fraction
    min_sessions: Count
    grace_minutes: Annotated[Integer, Field(ge=0, le=720)]


class Parameters(Group):
    """Every parameter of the project; ``conf/base/parameters.yml`` explains each one."""

    candidate: Annotated[
        Annotated[str, Field(pattern=f"^{CANDIDATE_ID}$")] | None, BeforeValidator(_text)
    ]
    git_commit: Text
    data_root: Annotated[str, Field(min_length=1)]
    tables: Text
    catalog: Text
    schema_: Annotated[Text, Field(alias="schema")]
    volume: Text
    trigger: Text
    experiment: Annotated[str, Field(min_length=1)]
    keep_versions_days: Annotated[Number, Field(ge=0)]
    prices: Text
    columns: dict[Column, Annotated[str, Field(min_length=1)]]
    calendar: Text
    tickers: Annotated[list[Ticker], BeforeValidator(_split)]
    start: Date
    end: Date
    now: Time
    since: Annotated[str | None, BeforeValidator(_since)]
    allow_missing_tickers: Flag
    max_missing_share: Annotated[Number, Field(ge=0, le=1)]
    window: Count
    body: Literal["return", "delta"]
    features: Annotated[list[str], BeforeValidator(_split)]
    test_fraction: Fraction
    purge: Annotated[Integer, Field(ge=0)]
    estimators: Annotated[list[str | dict[str, Any]], BeforeValidator(_split), Field(min_length=1)]
    min_weight_fraction_leaf: Annotated[Number, Field(ge=0, lt=0.5)]
    max_samples: Count
    max_training_rows: Count
    seed: Annotated[Integer, Field(ge=0)]
    folds: Annotated[Integer, Field(ge=2)]
    min_training_sessions: Count
    evaluation: Evaluation
    gate: Gate
    registered_model: Annotated[str, Field(min_length=1)]
    approver: Text
    override_reason: Text
    monitoring: Monitoring

    @field_validator("prices")
    @classmethod
    def _given(cls, value: str | None) -> str:
        if value is None:
            raise ValueError("is missing: --params prices=<path>, or <schema>.<table>")
        return value

    @field_validator("calendar")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            from exchange_calendars import get_calendar_names

            if value not in (names := get_calendar_names()):
                near = get_close_matches(value.upper(), names, n=1, cutoff=0.5)
                raise ValueError(f"must be one of {', '.join(near or sorted(names))}")
        return value

    @field_validator("features")
    @classmethod
    def _registered(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("must name at least one")
        try:
            find_features(value)
        except FeatureError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("tickers", "features")
    @classmethod
    def _once(cls, value: list[str], info: ValidationInfo) -> list[str]:
        yahoo = info.field_name == "tickers" and info.data.get("prices") == "yahoo"
        if not value and yahoo:
            raise ValueError("must name at least one ticker, as Yahoo has no list")
        if twice := sorted({name for name in value if value.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} more than once")
        return value

    @field_validator("estimators")
    @classmethod
    def _usable(cls, value: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
        made = make_estimators(value, min_weight_fraction_leaf=0, max_samples=1, seed=0)
        for item, (name, estimator) in zip(value, made.items(), strict=True):
            if item != name:  # a class or settings that are not the project's own
                try_out(name, estimator)
        return value

    @field_validator("start")
    @classmethod
    def _not_in_the_future(cls, value: str | None) -> str | None:
        # ISO dates sort as text.
        today = dt.datetime.now(dt.UTC).date().isoformat()
        if value and value > today:
            raise ValueError(f"is in the future, today is {today} (UTC)")
        return value

    @field_validator("end")
    @classmethod
    def _after_start(cls, value: str | None, info: ValidationInfo) -> str | None:
        start = info.data.get("start")
        if value and start and value <= start:
            raise ValueError("must be later than start")
        return value


PLACES = {
    "catalog": "tables are named <catalog>.<schema>.<table>",
    "schema": "tables are named <catalog>.<schema>.<table>",
    "volume": "files go to /Volumes/<catalog>/<schema>/<volume>",
}
"""Parameters that are required where tables have names instead of folders."""


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parameters of a run, all at once, before anything is read or written.

    Args:
        given: the merged parameters of configuration and command line.

    Returns:
        The same parameters with their types: ``tickers`` is a list even if it was one text, dates
        and times are ISO texts.

    Raises:
        ParameterError: what is wrong with each, with the near match of an unknown name.
    """
    named = "/" not in str(given.get("tables") or "/")
    missing = {
        name: f"is missing, as {what}" for name, what in PLACES.items() if not given.get(name)
    }
    if named and missing:
        raise ParameterError(missing)
    try:
        return Parameters.model_validate(dict(given)).model_dump(by_alias=True)
    except ValidationError as error:
        raise ParameterError(dict(_fault(each, given) for each in error.errors())) from None


def _fault(error: Any, given: Mapping[str, Any]) -> tuple[str, str]:
    """Return the parameter that one of pydantic's errors is about, and what is wrong with it."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = get_close_matches(key, parameter_names(Parameters), n=1, cutoff=0.5)
        return key, "unknown parameter" + (f"; did you mean {near[0]}?" if near else "")
    if error["type"] == "missing":
        return key, "is missing"
    words = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if key in ("start", "end"):
        return key, f"{words}; start is {given.get('start')!r}, end is {given.get('end')!r}"
    return key, f"{words}; it is {error['input']!r}"


def parameter_names(group: type[Group], prefix: str = "") -> list[str]:
    """Return the names of a group's parameters as on a command line, such as ``gate.metric``."""
    names = []
    for field_name, field in group.model_fields.items():
        name = prefix + (field.alias or field_name)
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            names.extend(parameter_names(field.annotation, f"{name}."))
    return names
