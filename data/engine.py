"""Where the costly part of a stage runs: in this process, in several, or on a Ray cluster.

Tables of a dataset are `mapped` one by one; the fits and searches of an audit are `calls` that share their
data. What runs depends on its arguments and on nothing else, and results come in the order of the inputs:
what a stage writes is the same, byte for byte, wherever it ran.
"""

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import pyarrow as pa
from threadpoolctl import threadpool_limits

from winnow.data.stage import BadInput

Engine: TypeAlias = Literal["local", "ray"]
Mapped: TypeAlias = Callable[[pa.Table], pa.Table]
_Shared = TypeVar("_Shared")
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

_WAITING = 3  # tables for each worker, so that none is idle and few are in memory
_WINDOW = 32  # tables that a cluster is given at once


class Workers(NamedTuple):
    """Who does the work.

    Attributes:
        engine: "local", or "ray" for the cluster that RAY_ADDRESS names, or else this machine.
        number: processes at a time; with "local", 1 is this process and starts no other.
    """

    engine: Engine
    number: int


HERE = Workers("local", 1)


def mapped(function: Mapped, tables: Iterable[pa.Table], engine: Engine, workers: int) -> Iterator[pa.Table]:
    """Apply a function to each of many tables; memory holds a few of them.

    Args:
        function: of a module that workers can import, or a partial of one.
        tables: the inputs.
        engine: "local", or "ray" for the cluster that RAY_ADDRESS names, or else this machine.
        workers: processes at a time; with "local", 1 is this process and starts no other.

    Yields:
        The results, in the order of the inputs.

    Raises:
        BadInput: if there is no worker, or Ray is not installed.
    """
    if workers < 1:
        raise BadInput(f"workers must be at least 1, not {workers}")
    if engine == "ray":
        yield from _on_ray(function, tables, workers)
    elif workers == 1:
        yield from map(function, tables)
    else:
        yield from _in_processes(function, tables, workers)


def _in_processes(function: Mapped, tables: Iterable[pa.Table], workers: int) -> Iterator[pa.Table]:
    running: deque[Future[pa.Table]] = deque()
    with _processes(workers) as pool:
        for table in tables:
            running.append(pool.submit(function, table))
            if len(running) == _WAITING * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def calls(
    function: Callable[[_Shared, _Job], _Result], shared: _Shared, jobs: Sequence[_Job], workers: Workers
) -> Iterator[_Result]:
    """Call a function for each of some jobs, with data that all of them share.

    Every call has one thread of BLAS, so that sums do not depend on who did them.

    Args:
        function: of a module that workers can import.
        shared: its first argument, read only; sent to a worker once.
        jobs: its second argument.
        workers: who does the work.

    Yields:
        The results, in the order of the jobs.

    Raises:
        BadInput: if there is no worker, or Ray is not installed.
    """
    if workers.number < 1:
        raise BadInput(f"workers must be at least 1, not {workers.number}")
    if workers.engine == "ray":
        ray = _ray(workers.number)
        task, common = ray.remote(_called), ray.put(shared)
        running: deque[Any] = deque()
        for job in jobs:
            running.append(task.remote(function, common, job))
            if len(running) > workers.number:
                yield ray.get(running.popleft())
        while running:
            yield ray.get(running.popleft())
    elif workers.number == 1:
        for job in jobs:
            yield _called(function, shared, job)
    else:
        with _processes(workers.number, function, shared) as pool:
            yield from pool.map(_called_here, jobs)


def _called(function: Callable[[_Shared, _Job], _Result], shared: _Shared, job: _Job) -> _Result:
    with threadpool_limits(1):
        return function(shared, job)


_here: list[tuple[Callable[[Any, Any], Any], Any]] = []  # of a worker process: what it calls, and the data


def _remember(function: Callable[[Any, Any], Any], shared: Any) -> None:
    _here[:] = [(function, shared)]


def _called_here(job: Any) -> Any:
    function, shared = _here[0]
    return _called(function, shared, job)


def _processes(
    number: int, function: Callable[[Any, Any], Any] | None = None, shared: Any = None
) -> ProcessPoolExecutor:
    # Forking a process that holds threads of torch or BLAS can hang; a spawned one starts clean.
    fresh = multiprocessing.get_context("spawn")
    if function is None:
        return ProcessPoolExecutor(number, mp_context=fresh)
    return ProcessPoolExecutor(number, mp_context=fresh, initializer=_remember, initargs=(function, shared))


def _on_ray(function: Mapped, tables: Iterable[pa.Table], workers: int) -> Iterator[pa.Table]:
    ray = _ray(workers)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    rest = iter(tables)
    while window := list(islice(rest, _WINDOW)):
        # A table is a block, and a block a task.
        given = ray.data.from_arrow(window)
        at_once = min(workers, len(window))
        done = given.map_batches(function, batch_size=None, batch_format="pyarrow", concurrency=at_once)
        yield from done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


def _ray(workers: int) -> Any:
    """Join the cluster, or start one of this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BadInput("engine 'ray' needs Ray: pip install 'winnow[ray]', or set engine: local") from error
    if not ray.is_initialized():
        own: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
        joined = "RAY_ADDRESS" in os.environ
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **({} if joined else own))
    return ray
