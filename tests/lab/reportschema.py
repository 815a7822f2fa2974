# SPDX-License-Identifier: MIT
"""The JSON Schema of `guestpv validate --json`, as the tests here and in tests/unit hold it."""

import json
from importlib.resources import files
from typing import Any

import jsonschema

from guestpv.cli.records import plain
from guestpv.cli.reports.json import outcome_record
from guestpv.validate import Outcome

SCHEMA = json.loads((files("guestpv.cli.reports") / "validate.schema.json").read_text())


def closed(schema: Any) -> Any:
    """The same, but fields that it does not name are refused: a report has none."""
    match schema:
        case {"if": condition, "then": {"properties": {"figures": figures}}}:
            return {"if": condition, "then": {"properties": {"figures": closed(figures)}}}
        case {"properties": properties, **rest}:
            return {
                **closed(rest),
                "properties": {name: closed(field) for name, field in properties.items()},
                "additionalProperties": False,
            }
        case dict():
            return {name: closed(field) for name, field in schema.items()}
        case list():
            return [closed(field) for field in schema]
        case _:
            return schema


VALIDATOR = jsonschema.Draft202012Validator(closed(SCHEMA))


def outcome_is_by_schema(outcome: Outcome) -> None:
    """Its figures, too. Raises jsonschema.ValidationError."""
    record = json.loads(json.dumps(plain(outcome_record(outcome)), allow_nan=False))
    jsonschema.Draft202012Validator(
        {"$ref": "#/$defs/check", "$defs": VALIDATOR.schema["$defs"]}
    ).validate(record)
