"""The `tokenlayer` command: the root, the rooms, and how errors become exit codes."""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from tokenlayer.app.cli import common, transfer
from tokenlayer.app.cli import serve as serve_command
from tokenlayer.catalog import ROOMS
from tokenlayer.core.errors import TokenLayerError

USER_ERROR, OUR_ERROR, INTERRUPTED = 2, 1, 130


class Root(TyperGroup):
    """Imports `tokenlayer.app.cli.<room>` when the room is typed, not when the help lists it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Returns the room's own group in place of the empty one that stands for it in the help."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in ROOMS:
            command = get_group(import_module(f"tokenlayer.app.cli.{name}").app)
            command.name, command.help, command.no_args_is_help = name, ROOMS[name], True
        return name, command, rest


app = typer.Typer(
    cls=Root,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: tokenlayer swap MODEL TOKENIZER --out DIR --dry-run",
)
for _room, _help in ROOMS.items():
    app.add_typer(typer.Typer(), name=_room, help=_help, rich_help_panel="Rooms")
app.command("swap", epilog=transfer.EXAMPLE)(transfer.swap)
app.command("serve", epilog=serve_command.EXAMPLE)(serve_command.serve)


def _print_version(wanted: bool) -> bool:
    if wanted:
        import tokenlayer

        print(f"tokenlayer {tokenlayer.__version__}")
        raise typer.Exit()
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: common.Debug = False,
) -> None:
    """Give a trained language model another tokenizer, and say in bits per byte what that cost."""


@app.command()
def doctor(
    what: Annotated[str, typer.Argument(metavar="MODEL|TOKENIZER", help="Folder, hub id or tokenizer.json.")],
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Say what is inside a model or tokenizer, and what would break in a swap."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    render(api.doctor(what), as_json=as_json, quiet=quiet)


@app.command("list")
def list_systems(
    room: Annotated[str | None, typer.Argument(help="Only the systems of this room.")] = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """List the published systems that work, with their commands."""
    from tokenlayer.app.listing import list_report
    from tokenlayer.app.render import render

    render(list_report(room), as_json=as_json)


@app.command()
def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder that `tokenlayer swap` wrote.")],
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Draw report.html again from DIR/tokenlayer.json, and print its numbers."""
    from pathlib import Path

    from tokenlayer.app.render import render
    from tokenlayer.app.report import rewrite_page

    found, page = rewrite_page(Path(folder))
    render(found, as_json=as_json, quiet=quiet)
    if not quiet:
        print(f"wrote {page}", file=sys.stderr)
    if open_page:
        typer.launch(str(page))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 done, 2 the user's mistake, 1 ours, 130 interrupted."""
    given = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # tokens of any script, terminals of any encoding
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    sys.exit(_run(given or ["--help"]))


def _run(args: list[str]) -> int:
    """Returns the exit code; every message has been printed."""
    try:
        code = get_command(app)(args, prog_name="tokenlayer", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except TokenLayerError as error:
        _say(error.message, error.hint)
        return _after(error, args, USER_ERROR)
    except typer.TyperException as error:
        return _usage_error(error)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped; no output was written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: say nothing more
        return OUR_ERROR
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        _say(f"{type(error).__name__}: {text}", "run again with --debug for the traceback")
        return _after(error, args, OUR_ERROR)


def _usage_error(error: typer.TyperException) -> int:
    """A wrong flag or command, in the form of our own errors."""
    if type(error).__name__ != "NoArgsIsHelpError":  # its message is the help, already printed
        where = getattr(error, "ctx", None)
        _say(error.format_message(), f"{where.command_path if where else 'tokenlayer'} --help")
    return error.exit_code


def _say(message: str, hint: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def _after(error: BaseException, args: list[str], code: int) -> int:
    if "--debug" in args:
        import traceback

        traceback.print_exception(error)
    return code


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Turns a signal into an ordinary exit, so that half-written folders are removed on the way out."""
    raise SystemExit(128 + number)
