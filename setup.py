"""What pyproject.toml cannot say: a wheel takes the engine along, compiled, where there is a compiler."""

import importlib.util
import logging
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ENGINE = Path("compress", "engine")


def library() -> ModuleType:
    """Import the module that compiles the engine: by its place, since nothing is installed yet."""
    spec = importlib.util.spec_from_file_location("library", Path(__file__).parent / ENGINE / "library.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildWithEngine(build_py):
    """Compiles the engine into what a wheel takes; without a compiler, it is compiled when first needed."""

    def run(self) -> None:
        """Build, but leave a checkout that is installed in place (`--editable`) as it is."""
        super().run()
        if self.editable_mode:
            return
        folder, engine = Path(self.build_lib, "winnow", ENGINE), library()
        for old in folder.glob("*.so"):
            old.unlink()
        try:
            engine.build(folder / engine.beside().name)
        except engine.Unavailable as missing:
            logging.warning("the wheel comes without the engine, which needs a compiler then: %s", missing)


class WheelOfItsPlatform(bdist_wheel):
    """A wheel with the engine in it is one of its platform, for any Python 3: the engine knows none."""

    def run(self) -> None:
        """Build first, to see what it has become."""
        self.run_command("build")
        built = Path(self.get_finalized_command("build_py").build_lib, "winnow", ENGINE)
        self.root_is_pure = not any(built.glob("*.so"))
        # What is not pure has a folder of its own where it is installed; setuptools asks this to know.
        self.distribution.has_ext_modules = lambda: not self.root_is_pure
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildWithEngine, "bdist_wheel": WheelOfItsPlatform})
