"""Where the costly part of a stage runs: in this process, in several, or on a Ray cluster.

The function that is mapped turns one Arrow table into another and depends on nothing else; results come in
the order of the inputs. What a stage writes is therefore the same, byte for byte, wherever it ran.
"""

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Literal, TypeAlias

import pyarrow as pa

from winnow.data.stage import BadInput

Engine: TypeAlias = Literal["local", "ray"]
Mapped: TypeAlias = Callable[[pa.Table], pa.Table]

_WAITING = 3  # tables for each worker, so that none is idle and few are in memory
_WINDOW = 32  # tables that a cluster is given at once


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
    # Forking a process that holds threads of torch or BLAS can hang; a spawned one starts clean.
    fresh = multiprocessing.get_context("spawn")
    running: deque[Future[pa.Table]] = deque()
    with ProcessPoolExecutor(workers, mp_context=fresh) as pool:
        for table in tables:
            running.append(pool.submit(function, table))
            if len(running) == _WAITING * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _on_ray(function: Mapped, tables: Iterable[pa.Table], workers: int) -> Iterator[pa.Table]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BadInput("engine 'ray' needs Ray: pip install 'winnow[ray]', or set engine: local") from error
    if not ray.is_initialized():
        if "RAY_ADDRESS" in os.environ:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(
                num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING
            )
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
