"""What a run may be told: the keys of ``parameters.yml``, their types, units and ranges."""

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

from candlecast.errors import CandlecastError
from candlecast.names import CANDIDATE_ID, LONGEST_TEXT


class ParameterError(CandlecastError):
    """A parameter is unknown, of a wrong type or out of range; the message has a line each."""


def _split(value: object) -> object:
    """Split texts at spaces, commas and semicolons; the commas of ``--params`` are gone by then."""
    items: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items):
        return value
    return [part for item in items for part in re.split(r"[\s,;]+", item) if part]


def _sizes(value: object) -> object:
    """Take one number, or numbers with spaces between them: ``forest_sizes=50 100``."""
    if isinstance(value, str):
        return _split(value)
    return [value] if type(value) is int else value


def _text(value: object) -> object:
    """Take what a command line made a number of, and a blank text as none: ``candidate=123``."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):  # 1.1 or 1.10, 1e5 or 100000.0
        raise ValueError("was read as a number, not as typed: put it between single quotes")
    return str(value) if type(value) is int else value


def _read(value: object) -> object:
    """Take a text for the number or the truth value that it is: ``--set window=10``."""
    if isinstance(value, str):
        with suppress(ValueError):
            return json.loads(value)
    return value


def _date(value: object) -> object:
    """Take dates as YYYY-MM-DD only: nodes and the configuration see the text as it came."""
    value = value or None  # a job's parameter that is not given is an empty text
    try:
        iso = value is None or dt.date.fromisoformat(str(value)).isoformat() == value
    except ValueError:
        iso = False
    if not iso:
        raise ValueError("must be a date written YYYY-MM-DD")
    return value


Integer = Annotated[int, BeforeValidator(_read)]
Number = Annotated[float, BeforeValidator(_read)]
Flag = Annotated[bool, BeforeValidator(_read)]
Fraction = Annotated[Number, Field(gt=0, lt=1)]
Count = Annotated[Integer, Field(ge=1)]
Date = Annotated[str | None, BeforeValidator(_date)]
Text = Annotated[
    Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)] | None, BeforeValidator(_text)
]
Ticker = Annotated[str, Field(min_length=1, max_length=64)]


class Group(BaseModel):
    """Parameters that belong together.

    Types are strict, but a text may hold the number that is meant, as command lines give texts.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class Evaluation(Group):
    """How the test scores are evaluated."""

    repetitions: Annotated[Integer, Field(ge=1000)]
    cost_bps: Annotated[Number, Field(ge=0)]


class Gate(Group):
    """What a candidate must show."""

    metric: Literal["accuracy", "roc_auc"]
    threshold: Annotated[Number, Field(ge=0, lt=1)]
    min_sessions: Count
    champion_margin: Annotated[Annotated[float, Field(ge=0, lt=1)] | None, BeforeValidator(_read)]


class Monitoring(Group):
    """What tells that a champion should be retrained."""

    max_psi: Annotated[Number, Field(gt=0)]
    max_share_up_shift: Fraction
    min_sessions: Count


class Parameters(Group):
    """Every parameter of the project; ``conf/base/parameters.yml`` says what each one is for."""

    candidate: Annotated[
        Annotated[str, Field(pattern=f"^{CANDIDATE_ID}$")] | None, BeforeValidator(_text)
    ]
    git_commit: Text
    data_root: Annotated[str, Field(min_length=1)]
    tables: Annotated[str, Field(min_length=1)]
    catalog: Text
    schema_: Annotated[Text, Field(alias="schema")]
    volume: Text
    trigger: Text
    now: Text
    experiment: Annotated[str, Field(min_length=1)]
    tickers: Annotated[list[Ticker], BeforeValidator(_split)]
    start: Date
    end: Date
    allow_missing_tickers: Flag
    max_missing_share: Annotated[Number, Field(ge=0, le=1)]
    window: Count
    body: Literal["return", "delta"]
    test_fraction: Fraction
    purge: Annotated[Integer, Field(ge=0)]
    forest_sizes: Annotated[list[Count], BeforeValidator(_sizes), Field(min_length=1)]
    min_weight_fraction_leaf: Annotated[Number, Field(ge=0, lt=0.5)]
    seed: Annotated[Integer, Field(ge=0)]
    folds: Annotated[Integer, Field(ge=2)]
    min_training_sessions: Count
    evaluation: Evaluation
    gate: Gate
    registered_model: Annotated[str, Field(min_length=1)]
    approver: Text
    override_reason: Text
    monitoring: Monitoring

    @field_validator("tickers")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("must name at least one ticker")
        if twice := sorted({ticker for ticker in value if value.count(ticker) > 1}):
            raise ValueError(f"names {', '.join(twice)} more than once")
        return value

    @field_validator("forest_sizes")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError("must be ascending, each size once")
        return value

    @field_validator("start")
    @classmethod
    def _not_in_the_future(cls, value: str | None) -> str | None:
        # ISO dates sort as text.
        today = dt.datetime.now(dt.UTC).date().isoformat()
        if value and value > today:
            raise ValueError(f"lies in the future, today is {today} (UTC)")
        return value

    @field_validator("end")
    @classmethod
    def _after_start(cls, value: str | None, info: ValidationInfo) -> str | None:
        start = info.data.get("start")
        if value and start and value <= start:
            raise ValueError("must be later than start")
        return value


PLACES = ("catalog", "schema", "volume")
"""What must be given where tables have names and not paths."""


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parameters of a run, all at once, before anything is read or written.

    Args:
        given: the merged parameters of configuration and command line.

    Returns:
        The same parameters: ``tickers`` is a list even when they came as one text, separated by
        spaces or semicolons, dates are ISO texts, and ``now`` is the time if it was not given.

    Raises:
        ParameterError: one line per fault: what was asked, what came, and the near match of an
            unknown key.
    """
    unplaced = [name for name in PLACES if not given.get(name)]
    if unplaced and "/" not in str(given.get("tables") or "/"):
        raise ParameterError(
            f"Not given: {', '.join(unplaced)}. Where tables are named <catalog>.<schema>.<table>, "
            "catalog and schema say where they go, and volume is the folder for files: --params "
            "catalog=<catalog>,schema=<schema>,volume=/Volumes/<catalog>/<schema>/<volume>"
        )
    try:
        checked = Parameters.model_validate(dict(given)).model_dump(by_alias=True)
    except ValidationError as error:
        lines = [_line(fault, given) for fault in error.errors()]
        raise ParameterError("The parameters are not usable:\n  " + "\n  ".join(lines)) from None
    checked["now"] = checked["now"] or dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return checked


def _line(fault: Any, given: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = get_close_matches(key, _keys(Parameters), n=1, cutoff=0.5)
        return f"{key}: unknown parameter" + (f"; did you mean {near[0]}?" if near else "")
    if fault["type"] == "missing":
        return f"{key}: is missing"
    words = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if key in ("start", "end"):
        return f"{key}: {words}; start is {given.get('start')!r}, end is {given.get('end')!r}"
    return f"{key}: {words}; it is {fault['input']!r}"


def _keys(group: type[BaseModel], prefix: str = "") -> list[str]:
    """Name the keys of a group and of the groups in it as a command line does: ``gate.metric``."""
    keys = []
    for field_name, field in group.model_fields.items():
        name = field.alias or field_name
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys.extend(_keys(field.annotation, f"{prefix}{name}."))
    return keys
