"""``juggler client``: the interactive client."""

from __future__ import annotations

import os
import sys

import click

from juggler.cli.parameters import headers_option, timeout_option, verbose_option
from juggler.cli.printing import VERBOSE


@click.command()
@click.argument("url", metavar="[URL]", envvar="JUGGLER_URL", default="ws://127.0.0.1:9000/ws")
@headers_option
@timeout_option
@verbose_option
@click.pass_context
def command(ctx: click.Context, url: str, headers: dict[str, str], timeout: float) -> None:
    """Connect to the server at URL, and run commands that you type: calls, events, several connections, raw messages.

    URL defaults to the variable JUGGLER_URL, or else ws://127.0.0.1:9000/ws. Headers and token are sent with every
    connection. In the client, help lists the commands, Tab completes commands, URIs and channels, Ctrl-C clears the
    line, and Ctrl-D quits.

    The last 1000 lines are kept in $XDG_STATE_HOME/juggler/history, by default ~/.local/state/juggler/history. Set
    NO_COLOR to turn colours off. The client needs a terminal; for scripts use juggler call, pub and sub.

    \b
    Exit codes:
      0    quit
      2    invalid option or argument, or no terminal
    """
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise click.UsageError("juggler client needs a terminal; for scripts use juggler call, pub and sub")
    from juggler.cli.terminal.history import History, default_path
    from juggler.cli.terminal.shell import Shell

    Shell(url, headers, timeout, History(default_path(os.environ)), bool(ctx.meta.get(VERBOSE))).run()
