"""The command ``juggler``: dispatches to subcommands, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

import juggler
from juggler.cli.entry import end_startup
from juggler.cli.printing import VERBOSE, describe
from juggler.errors import CallFailed, ConnectionClosed, Expired, HandshakeRefused, JugglerError, Nacked, NotSupported
from juggler.process.extras import advice

# The summaries are here and not in the commands: a command is imported only to run it or to show its own help.
COMMANDS = {
    "api": "Serve the HTTP API.",
    "call": "Call a function and print its result.",
    "client": "Call, publish and subscribe interactively.",
    "config": "Validate or print the settings.",
    "connections": "List the connections of all servers.",
    "demo": "Run Redis, a server and example functions.",
    "kick": "Disconnect clients on all servers.",
    "pub": "Publish an event.",
    "server": "Serve websockets until SIGTERM or Ctrl-C.",
    "stats": "Show the metrics of a server live.",
    "sub": "Print the events of channels.",
    "top": "Show servers, functions and channels live.",
    "types": "Write TypeScript types of the functions.",
    "uris": "List the registered functions.",
}

EXTRAS = {
    "api": "server",
    "client": "terminal",
    "connections": "backend,terminal",
    "demo": "embedded",
    "kick": "backend",
    "server": "server",
    "stats": "server,terminal",
    "top": "server,terminal",
    "types": "server",
    "uris": "server,terminal",
}
"""Extras of setup.cfg that have the packages of a command. The others need only what is always installed."""

USAGE = 2
INTERRUPTED = 130
NO_READER = 141
EXIT_CODES: dict[type[JugglerError], int] = {
    CallFailed: 1,
    Nacked: 3,
    NotSupported: 3,
    Expired: 4,
    ConnectionClosed: 5,
    HandshakeRefused: 5,
}


class Commands(click.Group):
    """Imports a subcommand only to run it: those that run a server must monkey-patch before other imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"juggler.cli.{name}_command").command
        end_startup()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=COMMANDS[name]) for name in COMMANDS if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except JugglerError as error:
            if ctx.meta.get(VERBOSE):
                traceback.print_exc()
            click.echo(f"juggler {ctx.invoked_subcommand}: {describe(error)}", err=True)
            ctx.exit(EXIT_CODES.get(type(error), USAGE))
        except ModuleNotFoundError as error:
            name = ctx.invoked_subcommand or ""
            if (text := advice(error, EXTRAS.get(name, "server"))) is None:
                raise
            click.echo(f"juggler {name}: {text}", err=True)
            ctx.exit(USAGE)
        except BrokenPipeError:
            # Discard what is still buffered: flushing it at exit would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(NO_READER)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(juggler.__version__, prog_name="juggler")
def main() -> None:
    """RPC and pub-sub over websockets, backed by Redis.

    \b
    juggler demo                        try everything: Redis, a server and example functions
    juggler server                      run the server (juggler-callee runs your functions)
    juggler config show                 print its settings and where they come from
    juggler stats                       watch its metrics
    juggler uris                        list the registered functions
    juggler types                       write TypeScript types of the registered functions
    juggler top                         watch all servers, functions and channels
    juggler connections                 list the connections of all servers
    juggler kick --identity '"ann"'     disconnect a user
    juggler call test.echo '[1, 2]'     call a function
    juggler sub news                    subscribe to a channel
    juggler pub news '"hello"'          publish an event
    juggler client                      all of these, interactively

    \b
    Exit codes:
      0    success
      1    the called function raised an error
      2    invalid option, argument or setting
      3    the server refused the request, or does not support it
      4    timeout
      5    cannot connect, or the connection was lost
      130  interrupted by Ctrl-C
      141  the reader of the output has closed it
    """


if __name__ == "__main__":
    main()
