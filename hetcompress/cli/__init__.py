"""The command line: parse, one library call, print.  Errors of ours become one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Optional

import typer

from hetcompress.cli.bench import bench
from hetcompress.cli.convert import convert
from hetcompress.cli.demo import demo
from hetcompress.cli.export import export
from hetcompress.cli.finetune import finetune
from hetcompress.cli.listing import list_all
from hetcompress.cli.prune import prune
from hetcompress.cli.recipes import RecipeCommand
from hetcompress.cli.report import report
from hetcompress.cli.verbosity import say_stopped, show_causes, with_verbosity
from hetcompress.errors import HetCompressError
from hetcompress.recipes import COMMANDS
from hetcompress.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="hetcompress",
    help="Make trained convolutional networks smaller and really faster.",
    epilog="Exit codes: 0 ok, 1 failed while running, 2 usage, 3 bad or unsafe input file, 4 nothing to do or target "
    "unreachable, 5 verification failed, 130/143 stopped by a signal.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hetcompress {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        Optional[bool],  # noqa: UP045  typer reads Optional[...] on every supported Python
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Make trained convolutional networks smaller and really faster."""


# a line of the list of commands holds 62 characters in a terminal of 80 columns
for command, name, line in (
    (convert, "convert", "Load a checkpoint and prepare its convolutions."),
    (finetune, "finetune", "Learn kernel shapes and weights towards a target."),
    (prune, "prune", "Choose the shapes by the weights, without training."),
    (report, "report", "Compare with the dense source: MACs, accuracy, latency."),
    (export, "export", "Write the compressed model as ONNX and others, verified."),
    (bench, "bench", "Time any models side by side."),
    (demo, "demo", "Show the whole pipeline offline, in about a minute."),
    (list_all, "list", "List architectures, recipes, families and the like."),
):
    made = app.command(name, cls=RecipeCommand if name in COMMANDS else None, short_help=line)
    made(with_verbosity(command))


def _stop(signum: int, _frame: FrameType | None) -> None:
    """End in a way that leaves no temporary files behind."""
    with contextlib.suppress(RuntimeError):  # the signal may have come in the middle of other output
        say_stopped(signum)
    sys.exit(128 + signum)


def main() -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except HetCompressError as error:
        show_causes(error)
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader of our output has gone, e.g. `| head`; nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
