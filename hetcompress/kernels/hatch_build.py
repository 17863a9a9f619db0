"""Compiles the kernels into the package while it is installed or built; without a compiler the package goes without."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):
    """Called by hatchling for wheels, the editable ones of ``pip install -e`` among them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and make the wheel one for this platform, or say why not."""
        del version
        if self.target_name != "wheel":
            return
        script = _script(Path(self.root, "hetcompress", "kernels", "build.py"))
        try:
            library = script.build()
        except (script.BuildError, OSError) as error:
            self.app.display_warning(f"hetcompress is installed without its compiled kernels: {error}")
            return
        build_data["artifacts"].append(f"hetcompress/kernels/{library.name}")
        build_data["pure_python"] = False
        # the library is opened by name, whatever the Python version
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _script(path: Path) -> ModuleType:
    """Import a file alone: its package needs torch, which an isolated build does not have."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
