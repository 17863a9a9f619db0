"""Which functions and classes a pickle asks for, read off its opcodes and never run.

torch names them for what `torch.save` wrote.  A bare pickle of protocol 4 or newer, which other tools write, pushes a
module and a name as two strings and joins them (STACK_GLOBAL); older ones have both in one opcode (GLOBAL, INST).
"""

from __future__ import annotations

import pickletools
from pathlib import Path

__all__ = ["pickle_globals"]


def pickle_globals(path: Path) -> list[str]:
    """Return the dotted names that a bare pickle imports, in the order of the file, as far as it can be read."""
    found: list[str] = []
    pushed: list[object] = []
    memo: dict[object, object] = {}
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    found.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    found.append(".".join(map(str, pushed[-2:])))
                elif opcode.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                    memo[len(memo) if argument is None else argument] = pushed[-1] if pushed else None
                    continue
                pushed.append(memo.get(argument) if opcode.name.endswith("GET") else argument)
    except (ValueError, IndexError):  # damaged, or not the whole file is a pickle
        pass
    return list(dict.fromkeys(found))
