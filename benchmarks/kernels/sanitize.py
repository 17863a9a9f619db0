"""Builds the kernels' core with sanitizers and runs their own tests: ``python benchmarks/kernels/sanitize.py``.

Once with the address and undefined-behaviour sanitizers, once with the thread sanitizer.  Takes some minutes.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from hetcompress.kernels.build import build

SANITIZERS = ("address,undefined", "thread")
TESTS = ("core_test", "pool_test", "int8_test")
HERE = Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=300, help="random calls for each sanitizer")
    calls = str(parser.parse_args().calls)
    for sanitizer in SANITIZERS:
        flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g1", "-O1"]
        with tempfile.TemporaryDirectory() as folder:
            library = build(Path(folder, "libkernels.so"), flags=flags)
            print(sanitizer, flush=True)
            for test in TESTS:
                program = str(Path(folder, test))
                command = ["c++", "-std=c++17", *flags, str(HERE / f"{test}.cpp"), str(library), "-o", program]
                subprocess.run([*command, f"-Wl,-rpath,{folder}", "-pthread"], check=True)
                subprocess.run([program, calls], check=True)


if __name__ == "__main__":
    main()
