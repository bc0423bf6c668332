"""``juggler config``: whether the settings can be used, and what they are."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import click

from juggler.cli.options import verbose_option
from juggler.cli.settings import config_option, read_settings
from juggler.config.load import Settings
from juggler.config.table import show
from juggler.errors import ConfigError


@click.group()
def command() -> None:
    """Look at the settings of juggler server: those of a file and of the environment."""


@command.command()
@config_option
@verbose_option
def check(config_file: str | None) -> None:
    """See that the settings can be used, and print each error.

    \b
    Exit codes:
      0    they can
      2    they cannot
    """
    settings, errors = read_settings(config_file, {})
    if not errors:
        try:
            _build(settings)
        except (ConfigError, ValueError) as error:
            errors = [str(error)]
    for each in errors:
        click.echo(f"juggler config: {each}", err=True)
    if errors:
        raise click.exceptions.Exit(2)
    click.echo("the settings can be used")


@command.command("show")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, by key.")
@verbose_option
def show_all(config_file: str | None, as_json: bool) -> None:
    """Print the effective settings, and where each came from; secrets are masked."""
    settings, errors = read_settings(config_file, {})
    if errors:
        raise ConfigError("; ".join(errors))
    shown = {key: (_masked(value.value), value.source) for key, value in settings.values.items()}
    if as_json:
        click.echo(json.dumps({key: {"value": value, "source": source} for key, (value, source) in shown.items()}))
        return
    width = max(map(len, shown))
    for key, (value, source) in shown.items():
        click.echo(f"{key:{width}}  {show(value):24}  {source}")


def _build(settings: Settings) -> None:
    from juggler.config.build import make_application, make_brokers, make_server

    caller, pubsub = make_brokers(settings)
    server = make_server(settings, caller, pubsub)
    make_application(settings, server)
    server.close()
    caller.close()
    pubsub.close()


def _masked(value: Any) -> Any:
    """Return a URL without what may be secret: its password, and its options but for their names."""
    if not isinstance(value, str) or "://" not in value:
        return value
    try:
        parts = urlsplit(value)
    except ValueError:
        return "***"
    user, at, hosts = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = "&".join(f"{option.partition('=')[0]}=***" for option in parts.query.split("&") if option)
    return urlunsplit(parts._replace(netloc=f"{name}{':***' if colon else ''}{at}{hosts}", query=query, fragment=""))
