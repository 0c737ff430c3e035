"""run(main): a section of params.yaml and some paths → one typed call.

Every stage starts here, so here is what all stages owe their user: checked parameters, output that is
complete or absent, a log, and a message about how it ended.
"""

import argparse
import inspect
import logging
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console
from rich.logging import RichHandler

from winnow.data import alert

PARAMS = Path("params.yaml")
# What a source may be written as, `torchvision:FashionMNIST`: a class and its first argument.
SHORTHANDS = {
    "torchvision": ("winnow.data.sources.torch_vision.Torchvision", "dataset"),
    "torchaudio": ("winnow.data.sources.torch_audio.Torchaudio", "dataset"),
    "hf": ("winnow.data.sources.huggingface.HuggingFace", "dataset"),
    "webdataset": ("winnow.data.sources.tar_shards.WebDataset", "shards"),
}
FILLED = {"logs", "sections"}  # keywords of a stage's main that are no keys of its section
LAST_LINES = 15  # of the log, sent along with the news of a failure
# Where torchrun, Lightning and SLURM say which of several processes this is: of the first, nothing but 0.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")

_log = logging.getLogger(__name__)


class BadInput(Exception):
    """What the user has to mend; shown as one message, without a traceback."""


class _LastLines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=LAST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run(main: Callable[..., str | None]) -> None:
    """Run a stage from the command line: `python -m winnow.data.audit vision INPUT… OUT`.

    `main`'s signature is the schema. Positional parameters are the modality, if the first is named
    so, and paths, of which the last is the output; the command line fills them. A modality annotated
    `str` stays a name: a stage that asks no more of it starts without torch. Keyword-only
    parameters are the keys of the stage's section in params.yaml, all of them, no other; but `logs`
    is filled here with a folder for what a person may watch, and `sections`, for a stage that several
    modalities share, with all of params.yaml. If `main` returns a text, it is the headline of the
    whole pipeline's end, and is sent as an alert.

    Raises:
        SystemExit: with a message if a parameter, a path or the input is wrong.
    """
    name = Path(inspect.getfile(inspect.unwrap(main))).stem
    parameters = inspect.signature(main).parameters
    positional = [p.name for p in parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
    argv = _arguments(main, name, positional)
    modality = argv.get("modality")
    label = name if modality is None else f"{name} {modality}"

    # One look for every stage; a terminal that is no terminal (CI, DVC in a pipe) gets plain lines.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 200)
    last = _LastLines()
    shown = RichHandler(console=console, show_path=False, show_time=sys.stderr.isatty())
    level = logging.INFO if first_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[shown, last])
    signal.signal(signal.SIGTERM, _terminated)

    try:
        params = _params()
        keywords = _section(params, main, name, modality, positional)
        filled = {"logs": Path("logs", *([modality] if modality else []), name), "sections": params}
        keywords |= {key: filled[key] for key in FILLED & parameters.keys()}
        paths = {key: Path(argv[key]) for key in positional if key != "modality"}
        for key, path in paths.items():
            if key != "out" and not path.exists():
                raise BadInput(f"{key} {path} does not exist")
        target = paths.pop("out")
        with _whole(target) if first_process() else _thrown_away(target) as out:
            headline = main(**keywords, **paths, out=out)
    except BadInput as error:
        alert.send(f"winnow: {label} failed", f"{error}\n\n" + "\n".join(last.lines))
        sys.exit(f"{label}: {error}")
    except BaseException as error:
        news = "".join(traceback.format_exception_only(error))
        alert.send(f"winnow: {label} failed", f"{news}\n" + "\n".join(last.lines))
        raise
    if headline:
        alert.send("winnow: the pipeline is complete", headline)


def _arguments(main: Callable[..., Any], name: str, positional: list[str]) -> dict[str, str]:
    doc = inspect.getdoc(inspect.getmodule(main)) or ""
    parser = argparse.ArgumentParser(
        prog=f"python -m {inspect.getmodule(main).__spec__.name}",  # type: ignore[union-attr]
        description=doc,
        epilog=f"The numbers stand in {PARAMS}, section <modality>.{name}: "
        + ", ".join(k for k in inspect.signature(main).parameters if k not in {*positional, *FILLED}),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for key in positional:
        parser.add_argument(key, help="a name in params.yaml" if key == "modality" else "a path")
    return vars(parser.parse_args())


def _params() -> dict[str, Any]:
    if not PARAMS.exists():
        raise BadInput(f"no {PARAMS} in {Path.cwd()}: start stages in the project's root")
    return yaml.safe_load(PARAMS.read_text(encoding="utf-8"))


def _section(
    params: dict[str, Any],
    main: Callable[..., Any],
    name: str,
    modality: str | None,
    positional: list[str],
) -> dict[str, Any]:
    """Check the stage's section against `main`'s annotations and make its objects."""
    where = name if modality is None else f"{modality}.{name}"
    if modality is not None and modality not in params:
        raise BadInput(f"{PARAMS} has no section {modality!r}; it has {sorted(params)}")
    owner = params if modality is None else params[modality]
    given = dict(owner.get(name) or {})
    hints = get_type_hints(main)
    if "modality" in positional:
        given["modality"] = modality if hints["modality"] is str else owner["modality"]

    parser = ArgumentParser(exit_on_error=False)
    paths = {key for key in positional if key != "modality"}
    known = set(inspect.signature(main).parameters) - paths - FILLED
    for key in given:
        if key not in known:
            raise BadInput(f"{PARAMS}: {where}: unknown key {key!r}; known: {sorted(known)}")
    for key in known - set(given):
        raise BadInput(f"{PARAMS}: {where}: key {key!r} is missing")
    if isinstance(given.get("source"), str):
        given["source"] = _written_out(given["source"], where)
    try:
        for key in known:
            parser.add_argument(f"--{key}", type=hints[key], required=True)
        checked = parser.parse_object(given)
        return parser.instantiate(checked).as_dict()
    except (ArgumentError, ValueError, TypeError) as error:
        raise BadInput(f"{PARAMS}: {where}: {error}") from error


def _written_out(shorthand: str, where: str) -> dict[str, Any]:
    prefix, _, argument = shorthand.partition(":")
    if prefix not in SHORTHANDS or not argument:
        known = ", ".join(f"{name}:…" for name in SHORTHANDS)
        raise BadInput(
            f"{PARAMS}: {where}: source {shorthand!r} is none of {known}; other sources are a class_path "
            "with init_args"
        )
    class_path, key = SHORTHANDS[prefix]
    return {"class_path": class_path, "init_args": {key: argument}}


def first_process() -> bool:
    """Say whether this is the first of the processes that run a stage together, or the only one."""
    return all(int(os.environ.get(name, 0)) == 0 for name in RANKS)


@contextmanager
def _thrown_away(out: Path) -> Iterator[Path]:
    """Give a place for what the first process writes too, where it is in nobody's way."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / out.name
        if not out.suffix:
            place.mkdir()
        yield place


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Give a temporary sibling of `out` that takes its place when everything went well."""
    partial = out.with_name(f".{out.name}.partial")
    _remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if not out.suffix:
        partial.mkdir()
    try:
        yield partial
    except BaseException:
        _remove(partial)
        raise
    _remove(out)
    partial.replace(out)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _terminated(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)
