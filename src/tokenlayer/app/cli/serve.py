"""`tokenlayer serve`: a page on this machine."""

import sys
from typing import Annotated

import typer

from tokenlayer.app.cli import common

EXAMPLE = """\b
Needs: pip install 'tokenlayer\\[serve]'
Example:
  tokenlayer serve gpt2/tokenizer.json ./my-model llama3/tokenizer.json
"""


def serve(
    tokenizers: Annotated[
        list[str], typer.Argument(metavar="TOKENIZER...", help="Folders, hub ids, or tokenizer files to compare.")
    ],
    *,
    port: Annotated[int, typer.Option(help="Port of 127.0.0.1; 0 takes any free one.")] = 8765,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Show in a browser how tokenizers cut a text; only this machine can see it."""
    from tokenlayer.app.serve.server import serve as run

    def ready(address: str) -> None:
        if not quiet:
            print(f"{address} shows {len(tokenizers)} tokenizers; stop with Ctrl-C", file=sys.stderr, flush=True)
        if open_page:
            typer.launch(address)

    run(tokenizers, port=port, ready=ready)
