"""``juggler config``: whether the settings can be used, and what they are."""

from __future__ import annotations

import json
from typing import Any

import click

from juggler.cli.config.flags import config_option, load_settings, read_settings
from juggler.cli.config.load import Settings
from juggler.cli.config.table import BY_KEY, show
from juggler.cli.parameters import verbose_option
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
    settings, errors = read_settings(config_file)
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
    settings = load_settings(config_file, {})
    shown = {key: (_shown(key, value.value), value.source) for key, value in settings.values.items()}
    if as_json:
        click.echo(json.dumps({key: {"value": value, "source": source} for key, (value, source) in shown.items()}))
        return
    width = max(map(len, shown))
    for key, (value, source) in shown.items():
        click.echo(f"{key:{width}}  {show(value):24}  {source}")


def _build(settings: Settings) -> None:
    from juggler.cli.config.build import make_application, make_brokers, make_server

    caller, pubsub = make_brokers(settings)
    server = make_server(settings, caller, pubsub)
    make_application(settings, server)
    server.close()
    caller.close()
    pubsub.close()


def _shown(key: str, value: Any) -> Any:
    from juggler.broker.redis.url import masked

    return masked(value) if value and BY_KEY[key].is_secret else value
