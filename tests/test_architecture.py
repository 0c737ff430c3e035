"""The plan of the house, as far as a machine can check it."""

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import yaml
from dvc.repo import Repo

from winnow.data.stage import FILLED

ROOT = Path(__file__).parent.parent
FOLDERS = ("data", "ssl", "compress")  # each imports itself and what stands left of it
SOURCES = (
    "files",
    "tables",
    "tar_shards",
    "torch_vision",
    "torch_audio",
    "huggingface",
    "joined",
    "sentences",
)
NAMED_IN_PARAMS = ("vision", "speech", "text", "starter", *SOURCES)
VAGUE = {"utils", "util", "common", "base", "helpers", "helper", "misc", "tools", "core"}
MOST_LINES = 330
PATHS = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
MODALITIES: list[str] = PARAMS["modalities"]


class Module(NamedTuple):
    """A file of the project: `data/audit.py` is ("data", "audit"); in a room ("data/pages", "plot")."""

    place: str
    name: str

    @property
    def folder(self) -> str:
        return self.place.split("/")[0]

    @property
    def path(self) -> Path:
        return ROOT / self.place / f"{self.name}.py"

    @property
    def dotted(self) -> str:
        return ".".join(["winnow", *self.place.split("/"), self.name])

    @property
    def dependency(self) -> str:
        """What a stage that needs it depends on: a room as a whole, or else the file."""
        return self.place if "/" in self.place else str(self)

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    def __str__(self) -> str:
        return f"{self.place}/{self.name}.py"


MODULES = [Module(path.parent.relative_to(ROOT).as_posix(), path.stem) for path in PATHS]
BY_NAME = {module.dotted: module for module in MODULES}
ROOMS = sorted({module.place for module in MODULES} - set(FOLDERS))


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that an import may mean: `from a.b import c` is a.b and a.b.c."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def direct_imports(module: Module) -> set[Module]:
    names = {name for name in imported_names(module.tree) if name.startswith("winnow.")}
    # `from winnow.data.pages import plot` names a room and then a module, `from winnow.data.store import x`
    # a module and then what is in it.
    rooms = {f"winnow.{place.replace('/', '.')}" for place in (*FOLDERS, *ROOMS)}
    unknown = {
        name for name in names if not {name, name.rpartition(".")[0]} & BY_NAME.keys() and name not in rooms
    }
    assert unknown == set(), f"{module} imports what does not exist"
    return {BY_NAME[name] for name in names if name in BY_NAME}


def closure(module: Module) -> set[Module]:
    reached, waiting = {module}, [module]
    while waiting:
        new = direct_imports(waiting.pop()) - reached
        reached |= new
        waiting += new
    return reached


def is_stage(module: Module) -> bool:
    """A stage ends in `run(main)`, or in `train.run(main, method)` if it trains."""
    last = module.tree.body[-1]
    if not isinstance(last, ast.If):
        return False
    return bool(re.fullmatch(r"run\(main\)|train\.run\(main, \w+\)", ast.unparse(last.body[-1])))


STAGES = {module.name: module for module in MODULES if is_stage(module)}


class Step(NamedTuple):
    """A stage of dvc.yaml for one modality and round, as DVC resolves it."""

    address: str
    module: Module
    words: list[str]
    deps: set[str]
    params: set[str]
    outs: set[str]

    @property
    def modality(self) -> str | None:
        return self.words[0] if self.words[0] in MODALITIES else None

    @property
    def inputs(self) -> list[str]:
        return self.words[1 if self.modality else 0 : -1]

    @property
    def output(self) -> str:
        return self.words[-1]


def read_step(stage: Any) -> Step:
    python, flag, module, *words = stage.cmd.split()
    assert (python, flag) == ("python", "-m"), stage.cmd
    files = {str(dep.def_path) for dep in stage.deps if not hasattr(dep, "params")}
    params = {key for dep in stage.deps if hasattr(dep, "params") for key in dep.params}
    outs = {str(out.def_path) for out in stage.outs}
    return Step(stage.name, BY_NAME[module], words, files, params, outs)


def read_pipeline(root: Path) -> Any:
    """Read it as DVC does, in a checkout without git too."""
    return Repo(str(root), config={"core": {"no_scm": True}}).index


def read_optional_steps() -> list[Step]:
    """Read the stages that are there when params.yaml switches them on."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / ".dvc").mkdir()
        shutil.copy(ROOT / "dvc.yaml", root)
        once = {name: f"{name}/pretrain" for name in MODALITIES}
        controls = {name: f"{name}/quantize" for name in MODALITIES}
        switched = {"trunks": ["joint"], "once": once, "controls": controls}
        (root / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **switched}))
        known = {step.address for step in STEPS}
        return [step for one in read_pipeline(root).stages if (step := read_step(one)).address not in known]


PIPELINE = read_pipeline(ROOT)
STEPS = [read_step(stage) for stage in PIPELINE.stages]
OPTIONAL = read_optional_steps()


def makes_its_modality(step: Step) -> bool:
    """Say whether a stage needs the modality's class; others know it by name, and start without torch."""
    return Module("data", "modality") in closure(step.module)


def within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


each_module = pytest.mark.parametrize("module", MODULES, ids=str)
each_stage = pytest.mark.parametrize("module", STAGES.values(), ids=list(STAGES))
each_step = pytest.mark.parametrize("step", [*STEPS, *OPTIONAL], ids=lambda step: step.address)


@each_module
def test_a_folder_imports_itself_and_what_stands_left_of_it(module: Module) -> None:
    allowed = FOLDERS[: FOLDERS.index(module.folder) + 1]
    assert {str(other) for other in direct_imports(module) if other.folder not in allowed} == set()


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    doors = {
        room: {m.place for one in MODULES if one.place == room for m in direct_imports(one)} for room in ROOMS
    }
    entered = TopologicalSorter({room: (there - {room}) & set(ROOMS) for room, there in doors.items()})
    assert len(list(entered.static_order())) == len(ROOMS)


@each_module
def test_a_stage_is_imported_by_nobody(module: Module) -> None:
    assert {str(other) for other in direct_imports(module) if is_stage(other)} == set()


@each_module
def test_what_params_name_is_imported_by_nobody(module: Module) -> None:
    assert {m.name for m in direct_imports(module)} & set(NAMED_IN_PARAMS) == set()


@each_module
def test_no_code_asks_which_modality_it_has(module: Module) -> None:
    names = {*MODALITIES, *(name.title() for name in MODALITIES)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare | ast.match_case):
            held = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            asked = names & {value for value in held if isinstance(value, str)}
            assert "modality" not in ast.unparse(node) or not asked, ast.unparse(node)


@each_module
def test_no_module_loads_or_writes_a_pickle(module: Module) -> None:
    names = set(imported_names(module.tree))
    assert not {name.split(".")[0] for name in names} & {"pickle", "joblib", "dill", "shelve"}
    called = {ast.unparse(n.func) for n in ast.walk(module.tree) if isinstance(n, ast.Call)}
    given = {n.arg for n in ast.walk(module.tree) if isinstance(n, ast.keyword)}
    assert not called & {"torch.save", "torch.load", "np.save", "np.load", "pd.read_pickle"}
    assert not {"allow_pickle", "pickle_module"} & given
    assert not any(name.endswith(".to_pickle") for name in called)


def test_only_ingest_writes_the_truth_and_only_report_and_effect_read_it() -> None:
    # The report scores the audit by it, effect has an oracle learn from it: the end of a path both, from
    # which nothing leads back into cleaning or training.
    holds = {str(m) for m in MODULES if "truth.parquet" in m.path.read_text(encoding="utf-8")}
    assert holds == {"data/ingest.py", "data/report.py", "ssl/effect.py"}


@each_step
def test_no_stage_but_ingest_and_report_and_effect_is_handed_the_truth(step: Step) -> None:
    # Round 1 takes the folder of ingest for its labels, of which it reads the manifest.
    touched = {path for path in step.deps | step.outs if path.endswith("truth.parquet")}
    assert not touched or step.module.name in {"ingest", "report", "effect"}


def test_of_effect_only_reports_learn() -> None:
    """It has seen the true labels: what it says is for people, and not for what cleans or trains."""
    readers = {
        step.module.name for step in STEPS if any(re.match(r"out/\w+/effect\b", dep) for dep in step.deps)
    }
    assert readers <= {"report", "card", "index"}


def test_only_issues_imports_cleanlab() -> None:
    users = [str(m) for m in MODULES if any(n.split(".")[0] == "cleanlab" for n in imported_names(m.tree))]
    assert users == ["data/judging/issues.py"]


def test_no_folder_is_a_package_of_its_own() -> None:
    assert [str(m) for m in MODULES if m.name == "__init__"] == []
    assert not (ROOT / "__init__.py").exists()


def test_what_is_installed_are_the_folders_and_their_rooms() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(packages) == sorted(f"winnow.{place.replace('/', '.')}" for place in (*FOLDERS, *ROOMS))


@each_module
def test_names_say_something_and_hide_no_standard_module(module: Module) -> None:
    assert module.name not in VAGUE
    assert module.name not in sys.stdlib_module_names


@each_module
def test_files_stay_short(module: Module) -> None:
    assert len(module.path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@each_module
def test_every_module_says_what_it_is_and_a_stage_by_an_arrow(module: Module) -> None:
    first = (ast.get_docstring(module.tree) or "").split("\n")[0]
    assert first
    if is_stage(module):
        assert "→" in first


def test_stages_are_the_modules_that_run_main_and_the_names_in_dvc_yaml() -> None:
    written = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(written) == set(STAGES)
    assert {step.module for step in [*STEPS, *OPTIONAL]} == set(STAGES.values())
    for step in [*STEPS, *OPTIONAL]:
        assert step.address.partition("@")[0] == step.module.name


@pytest.mark.parametrize("modality", MODALITIES)
def test_sections_are_stages_and_their_keys_are_mains_keywords(modality: str) -> None:
    sections = PARAMS[modality]
    with_modality = {step.module.name for step in (*STEPS, *OPTIONAL) if step.modality}
    assert set(sections) - {"modality"} == with_modality
    for name in with_modality:
        assert set(sections[name]) == main_keywords(name), f"{modality}.{name}"


def main_keywords(name: str) -> set[str]:
    main = importlib.import_module(STAGES[name].dotted).main
    parameters = inspect.signature(main).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - FILLED


def test_what_all_modalities_share_is_off_and_complete() -> None:
    optional = ("sparsify", "transfer", "control")
    switched = {f"{stage}@{modality}" for stage in optional for modality in MODALITIES}
    assert {step.address for step in OPTIONAL} == {"pretrain_joint@joint"} | switched
    assert set(PARAMS["pretrain_joint"]) == main_keywords("pretrain_joint")
    assert set(PARAMS["pretrain_joint"]["turns"]) == set(MODALITIES)


def test_an_encoder_that_others_read_is_one_that_a_stage_writes() -> None:
    assert list(PARAMS["encoders"]) == MODALITIES
    written = {out for step in OPTIONAL for out in step.outs}
    for modality in MODALITIES:
        names = {"model.safetensors", "config.json", "history.csv", "metrics.json"}
        assert {f"out/joint/{modality}/{name}" for name in names} <= written


def test_the_zeros_that_are_locked_come_from_a_stage_that_prunes() -> None:
    assert list(PARAMS["sparse"]) == MODALITIES
    written = {out for step in (*STEPS, *OPTIONAL) for out in step.outs}
    for modality in MODALITIES:
        assert PARAMS["sparse"][modality] == {"zeros": f"{modality}/prune", "rival": f"{modality}/quantize"}
        for stage in ("prune", "transfer"):
            assert {
                f"out/{modality}/{stage}/{name}" for name in ("model.safetensors", "config.json")
            } <= written


def test_every_modality_is_a_module_and_has_a_source_and_a_file_of_reviews() -> None:
    assert sorted(PARAMS["sources"]) == sorted(MODALITIES)
    for modality in MODALITIES:
        assert (ROOT / "data" / f"{modality}.py").exists()
        assert (ROOT / "reviews" / f"{modality}.csv").exists()


def test_rounds_and_probes_and_reports_name_each_other() -> None:
    for modality in MODALITIES:
        rounds = [r["round"] for r in PARAMS["rounds"].values() if r["modality"] == modality]
        probed = [p["round"] for p in PARAMS["probes"].values() if p["modality"] == modality]
        assert rounds == list(range(1, len(rounds) + 1))
        assert probed == [0, *rounds]
        assert PARAMS[modality]["report"]["rounds"] == rounds
        assert PARAMS[modality]["card"]["rounds"] == rounds
        assert PARAMS[modality]["effect"]["rounds"] == rounds
    for kind in ("rounds", "probes"):
        for name, one in PARAMS[kind].items():
            assert name == f"{one['modality']}-{one['round']}"


@each_step
def test_deps_hold_every_module_that_is_imported_directly_or_not(step: Step) -> None:
    needed = {module.dependency for module in closure(step.module)}
    if makes_its_modality(step):
        for modality in MODALITIES if step.modality is None else [step.modality]:
            needed |= {module.dependency for module in closure(Module("data", modality))}
    if step.module.name == "ingest":  # whose source params.yaml names
        needed.add("data/sources")
    held = {dep for dep in step.deps if dep.endswith(".py") or dep in ROOMS}
    assert needed <= held, f"missing: {needed - held}"
    raw = {path for path in step.inputs if path.endswith(".py")}  # starter data comes out of the code
    assert held <= needed | raw, f"too many: {held - needed}"


def test_what_is_compiled_of_a_room_is_no_dependency() -> None:
    assert {"__pycache__/", "/compress/engine/*.so"} <= set((ROOT / ".dvcignore").read_text().split())


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_source_that_is_code_is_a_dependency_of_its_ingest(modality: str) -> None:
    module = PARAMS[modality]["ingest"]["source"]["class_path"].rpartition(".")[0]
    (step,) = (s for s in STEPS if s.module.name == "ingest" and s.modality == modality)
    assert {needed.dependency for needed in closure(BY_NAME[module])} <= step.deps


@each_step
def test_a_stage_depends_on_its_own_section_and_no_other(step: Step) -> None:
    if step.module.name == "pretrain_joint":  # of several modalities, with the settings of each
        own = {f"{name}.{key}" for name in MODALITIES for key in ("modality", "pretrain")}
        assert step.params == {"pretrain_joint", *own}
        return
    expected = {step.module.name} if step.modality else set()
    if makes_its_modality(step):
        expected.add("modality")
    if step.module.name == "sparsify":  # which goes on as that one did
        expected.add("pretrain")
    assert step.params == {f"{step.modality}.{key}" for key in expected}


@each_step
def test_a_stage_writes_where_its_command_says(step: Step) -> None:
    assert step.outs
    assert [out for out in step.outs if not within(out, step.output)] == []
    name = step.output.removesuffix(".html").split("/")
    # These are gathered in out/report, or belong to several modalities.
    if step.module.name not in {"report", "card", "index", "pretrain_joint"}:
        assert name[:2] == ["out", step.modality]
        assert name[2].partition("@")[0] == step.module.name


@each_step
def test_a_stage_depends_on_what_its_command_reads_and_on_nothing_else(step: Step) -> None:
    read = {dep for dep in step.deps if not dep.endswith(".py") and dep not in ROOMS}
    for path in step.inputs:
        assert any(within(dep, path) for dep in step.deps), f"{path} is read, but no dependency"
    for dep in read:
        assert any(within(dep, path) for path in step.inputs), f"{dep} is no part of the command"


@each_step
def test_what_a_stage_reads_another_has_written(step: Step) -> None:
    written = {out for other in (*STEPS, *OPTIONAL) for out in other.outs}
    for dep in step.deps:
        if dep.startswith("out/"):
            assert any(within(dep, out) or within(out, dep) for out in written), dep
        else:
            assert (ROOT / dep).exists()


def test_importing_the_project_silences_no_warning() -> None:
    names = list(BY_NAME)
    code = f"""
import importlib, warnings
before = list(warnings.filters)
for name in {names}:
    importlib.import_module(name)
for action, message, category, *_ in warnings.filters:
    if (action, message, category, *_) not in before and action == "ignore" and message is None:
        print(category.__module__, category.__qualname__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # A library may hide a warning of its own; one of Python's is everybody's.
    assert [line for line in done.stdout.splitlines() if line.startswith("builtins")] == []


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not in a git checkout: nothing says which files belong to the project")
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_constraints_are_names_and_versions_alone() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    assert entries
    assert [e for e in entries if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", e)] == []
    names = [re.split("==", e)[0].lower().replace("_", "-") for e in entries]
    assert len(names) == len(set(names))


def test_no_file_names_a_folder_of_some_machine_or_a_package_registry() -> None:
    machine = re.compile(
        r"(?<![\w.~])/(?:home|Users|root|work|mnt|media)/\w"
        r"|(?:extra-)?index-url"
        r"|https?://[\w.-]*(?:pypi|pythonhosted|artifactory|nexus|jfrog|registry|download\.pytorch)"
    )
    found = []
    for path in tracked():
        if path.parent.name == "tests":  # where such paths are planted, to be found
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in machine.finditer(text)]
        assert str(ROOT) not in text
    assert found == []


def test_every_module_has_its_test() -> None:
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    alone = {module.name for module in MODULES} - tests
    # Tested where they are used: the modality's interface by each of the three, parts of pages by the
    # pages, alerts by the stage that sends them, judging by the audit, integers by quantize, comparisons
    # of splits by drift, targets and predictors by the method, positions by the trunk, recordings by speech,
    # names of published weights where they come in, heads by the methods that train them, the engine's
    # parts by tests of what they do together, test_engine_*.
    pages = {
        "bars",
        "chart",
        "claims",
        "findings",
        "wording",
        "probes",
        "plot",
        "previews",
        "questions",
        "loop",
        "schema",
    }
    assert alone <= pages | {
        "modality",
        "alert",
        "judge",
        "label_summary",
        "opinions",
        "fakequant",
        "integer",
        "comparison",
        "splits",
        "targets",
        "predictors",
        "positions",
        "recordings",
        "heads",
        "names",
        "reading",
        "writing",
        "fairseq",
        "library",
        "plan",
        "running",
        "classifier",
    }
