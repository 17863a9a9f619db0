"""``python -m hetcompress.kernels`` compiles the kernels, where the installation had no compiler."""

import sys

from hetcompress.errors import HetCompressError
from hetcompress.kernels.build import BuildError, build

try:
    sys.stdout.write(f"{build()}\n")
except BuildError as error:
    sys.stderr.write(f"error: {error}. Fix: install g++ 12, clang 12 or newer, or name another in CXX\n")
    sys.exit(HetCompressError.exit_code)
