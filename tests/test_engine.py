import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from operator import methodcaller
from pathlib import Path

import clouds
import numpy as np
import pyarrow as pa
import pytest
from conftest import KINDS, Kind, run_ingest

from winnow.data import neighbours
from winnow.data.engine import Workers, calls, mapped
from winnow.data.stage import BadInput

HAS_RAY = importlib.util.find_spec("ray") is not None


def numbered(count: int) -> Iterator[pa.Table]:
    return (pa.table({"number": [i, i + 1]}) for i in range(count))


# Functions of the standard library: a process that is to work needs not import the project for them.
SECOND = methodcaller("slice", 1)
FAIL = methodcaller("column", "nonsuch")


def assert_same_bytes(a: Path, b: Path) -> None:
    names = sorted(path.relative_to(a) for path in a.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(b) for path in b.rglob("*") if path.is_file())
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def test_results_come_in_the_order_of_the_inputs():
    for workers in (1, 2):
        results = list(mapped(SECOND, numbered(20), "local", workers))
        assert [table["number"].to_pylist() for table in results] == [[i + 1] for i in range(20)]


def test_inputs_are_not_read_far_ahead_of_the_results():
    read = []

    def watched() -> Iterator[pa.Table]:
        for i, table in enumerate(numbered(100)):
            read.append(i)
            yield table

    for workers in (1, 2):
        read.clear()
        results = mapped(SECOND, watched(), "local", workers)
        next(results)
        assert len(read) <= 3 * workers
        results.close()  # type: ignore[attr-defined]


def test_a_failure_in_a_process_takes_the_stage_down():
    with pytest.raises(KeyError, match="nonsuch"):
        list(mapped(FAIL, numbered(3), "local", 2))


def test_an_engine_needs_a_worker():
    with pytest.raises(BadInput, match="workers must be at least 1, not 0"):
        list(mapped(SECOND, numbered(1), "local", 0))


@pytest.mark.parametrize("number", [1, 2])
def test_calls_share_their_data_and_come_in_the_order_of_the_jobs(number: int):
    assert list(calls(divmod, 17, range(1, 9), Workers("local", number))) == [
        divmod(17, n) for n in range(1, 9)
    ]


def test_a_failed_call_takes_the_stage_down():
    for number in (1, 2):
        with pytest.raises(ZeroDivisionError):
            list(calls(divmod, 17, [1, 0], Workers("local", number)))


def test_calls_need_a_worker():
    with pytest.raises(BadInput, match="workers must be at least 1, not 0"):
        list(calls(divmod, 17, [1], Workers("local", 0)))


def test_processes_ingest_to_the_same_bytes(kind: Kind, raw: Path, ingested: Path, tmp_path: Path):
    assert_same_bytes(ingested, run_ingest(kind, raw, tmp_path / "out", "local", 2))


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed: its absence cannot be tried")
def test_without_ray_the_remedy_is_named():
    with pytest.raises(BadInput, match=r"winnow\[ray\].*engine: local"):
        list(mapped(SECOND, numbered(1), "ray", 1))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two nodes of one processor each, on this machine; they find the project where this process does."""
    if not HAS_RAY:
        pytest.skip("Ray is not installed: pip install 'winnow[ray]'")
    changed = pytest.MonkeyPatch()
    changed.setenv("RAY_USAGE_STATS_ENABLED", "0")
    changed.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    try:
        nodes.add_node(**node)
        ray.init(address=nodes.address, log_to_driver=False)
        yield nodes.address
    finally:
        ray.shutdown()
        nodes.shutdown()
        changed.undo()


def where(table: pa.Table) -> pa.Table:
    import ray

    time.sleep(0.5)  # long enough that one node cannot do it all before the other has begun
    return pa.table({"node": [ray.get_runtime_context().get_node_id()], "first": table["number"][:1]})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
class TestCluster:
    def test_both_nodes_work_and_the_order_stays(self, cluster: str):
        results = list(mapped(where, numbered(12), "ray", 2))
        assert [table["first"][0].as_py() for table in results] == list(range(12))
        assert len({table["node"][0].as_py() for table in results}) == 2

    @pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
    def test_a_cluster_ingests_to_the_same_bytes(
        self, cluster: str, kind: Kind, raw: Path, ingested: Path, tmp_path: Path
    ):
        assert_same_bytes(ingested, run_ingest(kind, raw, tmp_path / "out", "ray", 2))

    @pytest.mark.parametrize("sparse", [False, True])
    def test_a_cluster_audits_to_the_same_bytes(
        self, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sparse: bool
    ):
        # Parts of a few samples each, looked for and not compared with all: many jobs for two nodes.
        monkeypatch.setattr(neighbours, "_PART", 40)
        sizes = {"ant": 60, "bee": 60, "cat": 60}
        vectors, labels = clouds.cloud(sizes)
        if sparse:
            own = np.repeat([[label == name for name in sizes] for label in labels], 8, axis=1)
            common = np.full((len(labels), 300), 0.02)  # words that any text may have
            vectors = np.random.default_rng(0).poisson(np.hstack([0.5 * own, common])).astype(np.float32)
        ingest = clouds.write(tmp_path, vectors, labels, group=[f"g{i % 9}" for i in range(len(labels))])
        for name, where, number in (("a", "local", 1), ("b", "ray", 2)):
            clouds.run(ingest, name, exact_neighbours_up_to=50, engine=where, workers=number)
        assert_same_bytes(tmp_path / "a", tmp_path / "b")

    def test_a_failure_on_a_cluster_takes_the_stage_down(self, cluster: str):
        import ray

        with pytest.raises(ray.exceptions.RayTaskError, match="nonsuch"):
            list(mapped(FAIL, numbered(3), "ray", 2))
