"""Reading a user's checkpoint without running code: from any file to a plain state dict."""

from __future__ import annotations

import argparse
import difflib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetcompress.errors import InputError
from hetcompress.files import sha256_of
from hetcompress.models.pickle_globals import pickle_globals

__all__ = ["read_state_dict"]

EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
KEYS = ("state_dict", "model", "model_state_dict", "net", "weights")
PREFIXES = ("module.", "_orig_mod.")
CONVERT = "torch.save(model.state_dict(), 'model.pt')"
ZIP, HEAD = b"PK\x03\x04", 512
HARMLESS = ("collections.OrderedDict", "torch._utils.", "torch.storage.")
"""What tensors in a bare pickle ask for, by the start of their names."""
CHECKSUM = re.compile(r"-(?=[0-9]*[a-f])([0-9a-f]{8})\.[a-z.]+$")
"""The start of a file's SHA-256 in its name, as torch hub has it; eight decimal digits are rather a date."""


def read_state_dict(path: Path, *, trust_pickle: bool = False, prefer_ema: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by clean names.

    Args:
        path: .pt, .pth, .th, .bin, .tar or .safetensors; the contents decide, not the suffix.
        trust_pickle: Open a pickle that can run code, whole pickled modules among them.
        prefer_ema: Take the averaged weights.

    Raises:
        InputError: The file is missing, broken, unsafe, of another kind, holds weights that are not finite, or no
            averaged ones.
    """
    _check_file(path)
    with path.open("rb") as file:
        head = file.read(HEAD)
    if _is_safetensors(path, head):
        loaded: Any = _read_safetensors(path)
    else:
        _check_kind(path, head)
        loaded = _read_pickle(path, trust_pickle=trust_pickle)
    tensors = _clean(_unwrap(path, loaded, prefer_ema=prefer_ema))
    _check_finite(path, tensors)
    return tensors


def _check_file(path: Path) -> None:
    where = f"checkpoint {path}"
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        fix = f"did you mean '{near[0]}'?" if near else "check the path"
        raise InputError(where, expected="a file", found="no such file", fix=fix)
    if path.is_dir():
        raise InputError(where, expected="a file", found="a folder", fix="name the checkpoint inside it")
    if path.stat().st_size == 0:
        raise InputError(where, expected="a checkpoint", found="an empty file", fix="fetch or save it again")
    named = CHECKSUM.search(path.name)
    if named and not sha256_of(path).startswith(named[1]):
        raise InputError(
            where, expected=f"a file whose SHA-256 begins with {named[1]}, as its name says", found="another SHA-256",
            fix="fetch it again, or rename it if the name means something else",
        )  # fmt: skip


def _is_safetensors(path: Path, head: bytes) -> bool:
    return path.suffix == ".safetensors" or (len(head) > 9 and head[8:10] == b'{"')


def _check_kind(path: Path, head: bytes) -> None:
    where, text = f"checkpoint {path}", head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(where, expected="a checkpoint", found="a web page", fix="download the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise InputError(where, expected="a checkpoint", found="a git-lfs pointer", fix="run `git lfs pull`")
    if head.startswith(ZIP):
        _check_zip(path)


def _check_zip(path: Path) -> None:
    where = f"checkpoint {path}"
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not check the checksums that the format has
            broken, names = archive.testzip(), archive.namelist()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise InputError(where, expected="a complete file", found=str(error), fix="fetch or save it again") from None
    if broken is not None:
        raise InputError(
            where, expected="an undamaged file", found=f"a wrong checksum in {broken}", fix="fetch it again"
        )
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise InputError(where, expected="a state dict", found="a TorchScript program", fix=f"save one with {CONVERT}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"checkpoint {path}", expected="a complete safetensors file", found=str(error), fix="fetch it again"
        ) from None


def _read_pickle(path: Path, *, trust_pickle: bool) -> Any:
    where = f"checkpoint {path}"
    try:
        if trust_pickle:
            return torch.load(path, map_location="cpu", weights_only=False)
        # timm's training checkpoints hold their arguments; a namespace is plain data
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle protocol: what that means for the user is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = _foreign_globals(path, str(error))
        if not foreign:
            raise InputError(
                where, expected="a checkpoint", found=_in_kind(path),
                fix=f"name a file of weights, fetch it again, or save it with {CONVERT}",
            ) from None  # fmt: skip
        raise InputError(
            where, expected="tensors and plain values", found=f"a pickle that needs {', '.join(foreign)}",
            fix=f"save the weights alone with {CONVERT}; if you made the file yourself, --trust-pickle opens it",
        ) from None  # fmt: skip
    except Exception as error:  # noqa: BLE001  broken files, and trusted pickles, may raise anything
        # what is no pickle at all ends in the number of a byte, which says nothing
        said = [line[:200] for line in str(error).splitlines()[:1] if any(map(str.isalpha, line))]
        found = ": ".join([type(error).__name__ if trust_pickle else _in_kind(path), *said])
        raise InputError(where, expected="a readable checkpoint", found=found, fix="fetch or save it again") from None


def _in_kind(path: Path) -> str:
    """Return what a file that cannot be read is: a text, if it begins with a line of printable characters."""
    with path.open("rb") as file:
        first, newline, _ = file.read(1024).partition(b"\n")
    text = bool(newline and first) and first.decode(errors="replace").rstrip("\r").isprintable()
    return "a text" if text else "an unreadable or truncated file"


def _foreign_globals(path: Path, message: str) -> list[str]:
    with path.open("rb") as file:
        first = file.read(1)
        file.seek(-1 if first else 0, os.SEEK_END)
        last = file.read(1)
    # text may look like a pickle, whose opcodes are letters, until its end
    if first not in (b"P", b"\x80") and (first == b"i" or last != b"."):
        return []
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001  only what torch.save wrote can be listed so
        found = [name for name in pickle_globals(path) if not name.startswith(HARMLESS)]
    found = [name for name in found if name != "argparse.Namespace"]
    return sorted(found) or re.findall(r"GLOBAL ([\w.]+) was not an allowed global", message)


def _unwrap(path: Path, loaded: Any, *, prefer_ema: bool) -> dict[str, Tensor]:
    """Return the mapping of names to tensors inside whatever was saved."""
    keys = (*EMA_KEYS, *KEYS) if prefer_ema else (*KEYS, *EMA_KEYS)
    outermost, averaged = loaded, False
    for _ in range(4):
        if isinstance(loaded, nn.Module):
            loaded = loaded.state_dict()
        if not isinstance(loaded, Mapping):
            break
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        key = next((key for key in keys if isinstance(loaded.get(key), Mapping | nn.Module)), None)
        if key is None or _size(tensors) > _size(loaded[key]):
            if prefer_ema and not averaged and "n_averaged" not in tensors:
                raise InputError(
                    f"checkpoint {path}", expected="averaged weights under " + ", ".join(EMA_KEYS),
                    found=_contents(outermost), fix="leave --ema out to take the weights that are there",
                )  # fmt: skip
            if tensors:
                return tensors
            break
        loaded, averaged = loaded[key], averaged or key in EMA_KEYS
    raise InputError(
        f"checkpoint {path}", expected="a state dict, plain or under " + ", ".join(KEYS), found=_contents(loaded),
        fix=f"save the weights with {CONVERT}",
    )  # fmt: skip


def _size(loaded: Any) -> int:
    """Count the numbers in all tensors inside, so that a counter or an accuracy beside a model is not taken for it."""
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    if isinstance(loaded, Mapping):
        return sum(map(_size, loaded.values()))
    return loaded.numel() if isinstance(loaded, Tensor) else 0


def _contents(loaded: Any) -> str:
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    if not isinstance(loaded, Mapping):
        return type(loaded).__name__
    return f"the keys {', '.join(str(key) for key in list(loaded)[:6])}" if loaded else "nothing in it"


def _clean(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes that parallel, compiled and averaged models add, also nested ones."""
    names = {name: name for name in tensors if name != "n_averaged"}
    changed = True
    while changed:
        changed = False
        for prefix in PREFIXES:
            if names and all(short.startswith(prefix) for short in names.values()):
                names = {name: short.removeprefix(prefix) for name, short in names.items()}
                changed = True
    # torch.compile of a part leaves its prefix in the middle of a name
    return {short.replace("._orig_mod.", "."): tensors[name] for name, short in names.items()}


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise InputError(
            f"checkpoint {path}", expected="finite weights", found=f"NaN or infinity in {', '.join(broken[:3])}{more}",
            fix="take an earlier checkpoint of the training",
        )  # fmt: skip
