"""The ``sfpose`` command: one file a subcommand, each with ``add_parser`` and ``run``.

May import everything else; nothing imports it.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import sfpose
from sfpose.cli.output import shown, standard_streams

__all__ = ["main"]

_TRAIN = '"sfpose[train]"'
_INSTALLED_BY = {"torch": _TRAIN, "onnx": _TRAIN}

_COMMANDS = (
    "demo",
    "verify",
    "embed",
    "enrol",
    "identify",
    "remove",
    "calibrate",
    "evaluate",
    "reproduce",
    "benchmark",
    "export",
    "info",
    "train",
)

EXIT_CODES = """\
to begin with:
  sfpose demo                      see it work on portraits that packages carry
  sfpose verify ann1.jpg ann2.jpg  two photos, one answer
  sfpose COMMAND --help            what a command takes and gives

exit codes:
  0    done; for "verify": the same person; for "identify": somebody in every photo
  1    for "verify": different people; for "identify": nobody in some photo, or it was left out
  2    an error, said on standard error
  130  interrupted
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sfpose",
        description="Verify faces across head poses, on the CPU and offline.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sfpose {sfpose.__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )
    for name in _COMMANDS:
        import_module(f"sfpose.cli.{name}").add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process if not given.

    Returns
    -------
    int
        The exit code: 0 done (or a match), 1 no match, 2 an error, 130 interrupted.
    """
    with standard_streams():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    command = "sfpose"
    try:
        try:
            options = _parser().parse_args(arguments)
            command = f"sfpose {options.command}"
            return int(options.run(options))
        finally:
            # Not when the interpreter ends, where it could change the exit code no more.
            print(end="", flush=True)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        told = f"this needs {missing}: pip install {_INSTALLED_BY.get(missing, missing)}"
        print(f"{command}: {shown(told)}", file=sys.stderr)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"{command}: {shown(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        # The interpreter's own code for it is 1, which says "different people".
        traceback.print_exc()
    return 2
