"""What all pages share: one template, one look, and nothing from outside.

A page is a single file. Its content policy forbids every fetch and every script but the one that
is written here, whose hash it carries: a script that hides in a dataset would not run even if the
template forgot to escape it.
"""

import base64
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from winnow.data.pages import bars, chart, pareto, plot, wording

_HERE = Path(__file__).parent
_DIGITS = 8  # significant ones, of numbers in a report's JSON
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; media-src data:; "
    "style-src 'unsafe-inline'; script-src 'sha256-{}'"
)


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        finalize=visible,
    )
    shown = (
        *(wording.count, wording.number, wording.percent, wording.percent_range, wording.plural),
        *(wording.points, wording.points_range, wording.size, wording.words),
    )
    for function in shown:
        made.filters[function.__name__] = function
        made.globals[function.__name__] = function
    made.globals |= {"bars": bars, "chart": chart, "pareto": pareto, "plot": plot}
    return made


def visible(content: Any) -> Any:
    """Show the control characters of a text, which a browser would drop or obey, by their pictures."""
    if not isinstance(content, str) or not _CONTROL.search(content):
        return content
    return type(content)(_CONTROL.sub(lambda found: chr(0x2400 + ord(found[0])), content))


def render(template: str, **content: Any) -> str:
    """Fill a template that lies beside this module.

    Args:
        template: its file name.
        **content: what it shows. Text is escaped; only previews are trusted to be HTML.

    Raises:
        jinja2.UndefinedError: if the template shows what is not in `content`.
    """
    made = _environment()
    script = made.get_template("page.js.jinja").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shared = {"script": script, "policy": _POLICY.format(digest)}
    return made.get_template(template).render(**shared, **content) + "\n"


def rounded(content: Any) -> Any:
    """Round the numbers of a report to what is worth keeping."""
    if isinstance(content, float):
        return float(f"{content:.{_DIGITS}g}")
    if isinstance(content, Mapping):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [rounded(value) for value in content]
    return content
