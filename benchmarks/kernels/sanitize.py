"""Builds the kernels with sanitizers and runs their tests: ``python benchmarks/kernels/sanitize.py``.

The core by programs of its own, once with the address and undefined-behaviour sanitizers, once with the thread
sanitizer, calls of one plan from several threads among them.  The operators of torch and onnxruntime by the package's
tests, in a process that holds the address sanitizer before all else.  Takes some minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import hetcompress
from hetcompress.kernels.build import build, library_path

SANITIZERS = ("address,undefined", "thread")
TESTS = ("core_test", "pool_test", "int8_test")
OPERATORS = ("kernels", "targets/test_int8_kernels.py")
"""The package's tests that run operators in torch and onnxruntime."""
HERE = Path(__file__).parent


def flags_of(sanitizer):
    return [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g1", "-O1"]


def core(sanitizer, calls):
    """Run the programs."""
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder, "libkernels.so"), flags=flags_of(sanitizer))
        for test in TESTS:
            program = str(Path(folder, test))
            command = ["c++", "-std=c++17", *flags_of(sanitizer), str(HERE / f"{test}.cpp"), str(library)]
            subprocess.run([*command, "-o", program, f"-Wl,-rpath,{folder}", "-pthread"], check=True)
            subprocess.run([program, calls], check=True)


def operators():
    """Run the package's tests on a copy of it whose library holds the address sanitizer."""
    package = Path(hetcompress.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, package.name)
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        build(copy / library_path().relative_to(package), flags=flags_of("address"))
        runtime = subprocess.run(["c++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
        standard = subprocess.run(["c++", "-print-file-name=libstdc++.so"], capture_output=True, text=True, check=True)
        environment = {
            **os.environ,
            "PYTHONPATH": folder,
            # the sanitizer looks for libstdc++ when it starts, before Python has opened a module in C++
            "LD_PRELOAD": f"{runtime.stdout.strip()} {standard.stdout.strip()}",
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        }
        tests = [str(HERE.parents[1] / "tests" / name) for name in OPERATORS]
        # from the folder of the copy: Python looks where it was started before it looks at PYTHONPATH
        where = [sys.executable, "-c", "import hetcompress.kernels as k; print(k.library_path())"]
        found = subprocess.run(where, capture_output=True, text=True, check=True, env=environment, cwd=folder)
        assert found.stdout.startswith(folder), f"{found.stdout} is not the library with the sanitizer"
        command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *tests]
        subprocess.run(command, check=True, env=environment, cwd=folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=300, help="random calls for each sanitizer")
    calls = str(parser.parse_args().calls)
    for sanitizer in SANITIZERS:
        print(sanitizer, flush=True)
        core(sanitizer, calls)
    print("operators, address", flush=True)
    operators()


if __name__ == "__main__":
    main()
