"""Compiles the kernels: at installation, and by ``python -m hetcompress.kernels`` if it had no compiler then.

Needs nothing but the standard library and a C++17 compiler with vector types (g++ 12 or clang 12 and newer), so that
the installation can run it by its path, before any dependency is there.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["BuildError", "build", "library_path"]

SOURCES = Path(__file__).with_name("src")

PATHS = {
    "avx512": "-mavx512f -mavx512vl -mavx512bw -mavx512dq -mavx2 -mfma -mprefer-vector-width=512",
    "avx2": "-mavx2 -mfma",
    "portable": "",
}
"""Name and compiler flags of each instruction set; only the last one exists on processors other than x86-64."""

INT8_PATHS = {
    # g++ 12 takes the undefined registers in its own headers for mistakes
    "avx512vnni": f"{PATHS['avx512']} -mavx512vnni -Wno-maybe-uninitialized",
    "avx2": PATHS["avx2"],
    "portable": "",
}
"""The same for 8 bits."""

FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-psabi -pthread"


class BuildError(RuntimeError):
    """There is no compiler, or it refused; the message is its last words."""


def library_path() -> Path:
    """Return where the library belongs, built or not."""
    return Path(__file__).with_name("libhetcompress_kernels" + (".dylib" if sys.platform == "darwin" else ".so"))


def build(target: Path | None = None, *, flags: Sequence[str] = ()) -> Path:
    """Compile and link the library.

    Args:
        target: The file to write; None for where the package looks for it.
        flags: For every compilation and for linking, after our own: sanitizers, optimisation.

    Raises:
        BuildError: It cannot be built here.
    """
    compiler = _compiler()
    target = target or library_path()
    with tempfile.TemporaryDirectory() as folder:
        jobs = _compilations(compiler, Path(folder), flags)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(_compile, jobs))
        fresh = Path(folder, target.name)
        _run([*compiler, "-shared", "-pthread", *flags, *objects, "-ldl", "-o", str(fresh)])
        # beside the target first and then renamed: a process that has the old file open keeps it whole
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copy(fresh, beside)
        beside.replace(target)
    return target


def _compiler() -> list[str]:
    if sys.platform == "win32":
        raise BuildError("Windows has no C++ compiler with vector types that this build knows")
    asked = os.environ.get("CXX")
    for command in [shlex.split(asked)] if asked else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    found = f"CXX names {asked}, which is not there" if asked else "found neither c++, g++ nor clang++"
    raise BuildError(f"no C++ compiler: {found}")


def _compilations(compiler: list[str], folder: Path, flags: Sequence[str]) -> list[list[str]]:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    jobs = []
    # the longest first, so that the last to end is a short one
    for source, paths in (("path", PATHS), ("int8_path", INT8_PATHS)):
        for name, of_path in paths.items() if x86 else [("portable", "")]:
            options = [*shlex.split(FLAGS), *of_path.split(), f"-DHETC_PATH={name}", *flags]
            output = str(folder / f"{source}_{name}.o")
            jobs.append([*compiler, *options, "-c", str(SOURCES / f"{source}.cpp"), "-o", output])
    for file in sorted(SOURCES.glob("*.cpp")):
        if file.stem not in ("path", "int8_path"):
            output = str(folder / f"{file.stem}.o")
            jobs.append([*compiler, *shlex.split(FLAGS), *flags, "-c", str(file), "-o", output])
    return jobs


def _compile(command: list[str]) -> str:
    _run(command)
    return command[-1]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own arguments
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise BuildError(f"{command[0]}: {lines[0] if lines else f'exit code {done.returncode}'}")
