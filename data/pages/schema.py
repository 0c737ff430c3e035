"""The schema of report.json: what a reader of it, of ours or of somebody else's, may rely on."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

VERSION = 2  # of the schema; a report says its own in `schema_version`
_PATH = Path(__file__).with_name("report.schema.json")


@functools.cache
def _validator() -> Draft202012Validator:
    written = json.loads(_PATH.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(written)
    return Draft202012Validator(written)


def require_valid(report: Mapping[str, Any]) -> None:
    """Check a report against the schema.

    Raises:
        ValueError: with the place in the report that breaks a rule, and the rule.
    """
    error = best_match(_validator().iter_errors(report))
    if error is not None:
        said = error.message if len(error.message) < 300 else f"{error.message[:300]}…"
        raise ValueError(f"{error.json_path} of the report breaks {_PATH.name}: {said}")
