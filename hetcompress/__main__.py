"""``python -m hetcompress`` is the command line."""

from hetcompress.cli import main

main()
