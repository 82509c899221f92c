"""What the fields of a body may hold, and how one that holds something else is refused.

`null` is the same as leaving a field out, as it is for OpenAI. A field that asks for nothing ("n": 1) is taken;
one that asks for what the server does not do is refused, and says what to do instead.
"""

from __future__ import annotations

import json
import re
import reprlib
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

_SESSION_ID = r"^\.{0,127}[A-Za-z0-9_:\-][A-Za-z0-9._:\-]{0,127}$"


def refusal(expected: str, got: str, remedy: str) -> PydanticCustomError:
    """Return the error of a field; the field's name is put before it."""
    told = {"expected": expected, "got": got, "remedy": remedy}
    return PydanticCustomError("refused", "Input should be {expected}, got {got}; {remedy}", told)


def only(neutral: object, remedy: str) -> BeforeValidator:
    """Take a field only if it asks for nothing."""

    def check(value: object) -> object:
        if isinstance(value, bool) is isinstance(neutral, bool) and value == neutral:
            return neutral
        raise refusal(json.dumps(neutral), reprlib.repr(value), remedy)

    return BeforeValidator(check)


def _check_session_id(value: object) -> object:
    if isinstance(value, str) and not (len(value) <= 128 and re.fullmatch(_SESSION_ID, value)):
        expected = "1 to 128 of A-Z a-z 0-9 . _ : - and not dots alone, which a URL cannot name"
        raise refusal(expected, reprlib.repr(value), "give the session another name")
    return value


def _one_prompt(value: object) -> object:
    """Take a list with one prompt for that prompt."""
    if not isinstance(value, list) or not value or not isinstance(value[0], str | list):
        return value
    if len(value) > 1:
        raise refusal("one text or one list of token ids", f"a list of {len(value)}", "send a request for each prompt")
    return value[0]


def _check_stops(value: object) -> object:
    stops = value if isinstance(value, list) else [value]
    longest = max((len(stop) for stop in stops if isinstance(stop, str)), default=0)
    if len(stops) > MOST_STOPS or longest > LONGEST_STOP:
        got = f"{len(stops):,}" if len(stops) > MOST_STOPS else f"one of {longest:,}"
        expected = f"at most {MOST_STOPS} texts of at most {LONGEST_STOP:,} characters each"
        raise refusal(expected, got, "each of them is looked for at every token; give the first words of it alone")
    return value


def _kind_of_prompt(value: object) -> str:
    return "text" if isinstance(value, str) else "ids"


MOST_STOPS = 4
"""As OpenAI has it."""
LONGEST_STOP = 1000
"""Characters. A stop text is a mark or a line; before the first token a step is taken for each of its characters."""
Stops = Annotated[
    Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
    | Annotated[list[Annotated[str, Field(max_length=LONGEST_STOP)]], Field(max_length=MOST_STOPS)],
    BeforeValidator(_check_stops),
]

SessionId = Annotated[str, Field(pattern=_SESSION_ID, max_length=128), BeforeValidator(_check_session_id)]
TokenId = Annotated[int, Field(ge=0, strict=True)]

_Text = Annotated[str, Field(min_length=1)]
_Ids = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
_ONE = Field(min_length=1, max_length=1)
_Single = Annotated[list[_Text], _ONE] | Annotated[list[_Ids], _ONE]

Prompt = Annotated[
    Annotated[_Text, Tag("text")] | Annotated[_Ids, Tag("ids")],
    Discriminator(_kind_of_prompt),
    BeforeValidator(_one_prompt, json_schema_input_type=_Text | _Ids | _Single),
]
"""A text or token ids, or a list with one of them."""


def _declare_null(schema: dict[str, Any], model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        declared = schema["properties"][name]
        if not field.is_required() and {"type": "null"} not in declared.get("anyOf", ()):
            about = {key: declared.pop(key) for key in ("title", "description", "default") if key in declared}
            schema["properties"][name] = {"anyOf": [declared, {"type": "null"}], **about}


class Body(BaseModel):
    """A request's body. Unknown fields are refused: they would be silently without effect."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, json_schema_extra=_declare_null)

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: given for name, given in value.items() if given is not None or name not in optional}
