"""``juggler client``: calls, events and anything else, interactively."""

from __future__ import annotations

import os
import sys

import click

from juggler.cli.parameters import VERBOSE, headers_option, timeout_option, verbose_option


@click.command()
@click.argument("url", metavar="[URL]", envvar="JUGGLER_URL", default="ws://127.0.0.1:9000/ws")
@headers_option
@timeout_option
@verbose_option
@click.pass_context
def command(ctx: click.Context, url: str, headers: dict[str, str], timeout: float) -> None:
    """Connect to the server at URL, and do what is typed: calls, events, several connections, raw messages.

    URL is that of the variable JUGGLER_URL, or ws://127.0.0.1:9000/ws, when absent. Each connection is made with the
    same headers and token. help lists the commands; Tab completes commands, URIs and channels; Ctrl-C clears the line,
    Ctrl-D ends.

    What is typed is kept in $XDG_STATE_HOME/juggler/history, or ~/.local/state/juggler/history: the last 1000 lines.
    With the variable NO_COLOR there are no colours. It needs a terminal: juggler call, pub and sub are for scripts.

    \b
    Exit codes:
      0    ended by quit or Ctrl-D
      2    a wrong option or argument, no terminal
    """
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise click.UsageError("it needs a terminal; juggler call, pub and sub are for scripts")
    from juggler.cli.terminal.history import History, default_path
    from juggler.cli.terminal.shell import Shell

    Shell(url, headers, timeout, History(default_path(os.environ)), bool(ctx.meta.get(VERBOSE))).run()
