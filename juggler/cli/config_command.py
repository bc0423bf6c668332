"""``juggler config``: validate and print the settings of ``juggler server``."""

from __future__ import annotations

import json
from typing import Any

import click

from juggler.cli.config.flags import config_option, exit_with, load_settings, read_settings
from juggler.cli.config.load import source_of
from juggler.cli.config.schema import Settings
from juggler.cli.config.table import SETTINGS, Setting, show
from juggler.cli.parameters import verbose_option
from juggler.errors import ConfigError


@click.group()
def command() -> None:
    """Validate or print the settings of juggler server, read from a file and the environment."""


@command.command()
@config_option
@verbose_option
def check(config_file: str | None) -> None:
    """Validate the configuration and print every error.

    \b
    Exit codes:
      0    valid
      2    invalid
    """
    settings, errors = read_settings(config_file)
    if not errors:
        try:
            _build(settings)
        except (ConfigError, ValueError) as error:
            errors = [f"config: {error}"]
    if errors:
        exit_with(errors)
    click.echo("the configuration is valid")


@command.command("show")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, by key.")
@verbose_option
def show_all(config_file: str | None, as_json: bool) -> None:
    """Print the effective settings and the source of each; passwords are masked."""
    settings = load_settings(config_file, {})
    shown = {each.key: (_masked(each, settings.value(each.key)), source_of(settings, each.key)) for each in SETTINGS}
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


def _masked(setting: Setting, value: Any) -> Any:
    from juggler.broker.redis import masked

    return masked(value) if value and setting.is_secret else value
