"""The machine that measurements were made on."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["Machine", "machine"]

TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "i8mm",
)
"""Instruction sets that decide how fast a convolution runs, by their names in Linux."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a latency depends on besides the model.

    Attributes:
        cpu: Name of the processor, with the numbers of its generation: clouds give many generations one name.
        flags: Its instruction sets that matter here; empty where the system does not tell.
        cores: Cores that this process may use.
        load: Mean number of running processes in the last minute; None where the system does not tell.
        torch: Version.
        onnxruntime: Version.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    load: float | None
    torch: str
    onnxruntime: str

    @property
    def summary(self) -> str:
        """One line for people."""
        flags, cores = " ".join(self.flags), "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.cpu} ({cores}, {flags}), torch {self.torch}, onnxruntime {self.onnxruntime}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**dataclasses.asdict(self), "flags": list(self.flags)}


def machine() -> Machine:
    """Describe this machine, without importing a runtime."""
    info = _cpu_info(Path("/proc/cpuinfo"))
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return Machine(
        cpu=_name(info) or platform.processor() or platform.machine(),
        flags=tuple(flag for flag in TELLING_FLAGS if flag in flags),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        torch=importlib.metadata.version("torch"),
        onnxruntime=importlib.metadata.version("onnxruntime"),
    )


def _name(info: dict[str, str]) -> str:
    name, numbers = info.get("model name", ""), [info.get(field) for field in ("cpu family", "model")]
    return f"{name} (family {numbers[0]}, model {numbers[1]})" if name and None not in numbers else name


def _cpu_info(file: Path) -> dict[str, str]:
    """Return the fields of the first processor in Linux' list; nothing on other systems."""
    try:
        first = file.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
