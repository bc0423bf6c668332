"""Flags for settings, and loading of settings for commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from juggler.cli.config.load import load
from juggler.cli.config.schema import Settings
from juggler.cli.config.table import BY_KEY, SETTINGS, Setting, show
from juggler.process.logline import printable

F = TypeVar("F", bound=Callable[..., Any])

_METAVARS = {int: "NUMBER", float: "SECONDS", str: "TEXT", tuple: "TEXT"}

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    envvar="JUGGLER_CONFIG",
    show_envvar=True,
    help="TOML file with settings. Variables (JUGGLER_SERVER_MAX_CALLS) override it, flags override both.",
)


def setting_options(command: F) -> F:
    """Add ``--config`` and one flag per setting to a command."""
    for setting in reversed(SETTINGS):
        command = _option(setting)(command)
    return config_option(command)


def _option(setting: Setting) -> Callable[[F], F]:
    parameter = _parameter(setting.key)
    help = f"{setting.help} [default: {show(setting.default) or 'none'}]"
    if setting.kind is bool:
        return click.option(f"{setting.flag}/--no-{setting.flag[2:]}", parameter, default=None, help=help)
    if setting.choices:
        metavar = f"[{'|'.join(setting.choices)}]"
    else:
        metavar = "URL" if setting.is_secret else _METAVARS[setting.kind]
    return click.option(setting.flag, parameter, metavar=metavar, multiple=setting.kind is tuple, help=help)


def _parameter(key: str) -> str:
    return key.replace(".", "__")


def flags_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags among a command's parameters, by key."""
    return {key: parameters[_parameter(key)] for key in BY_KEY if _parameter(key) in parameters}


def load_settings(config_file: str | None, flags: Mapping[str, Any]) -> Settings:
    """Return the effective settings.

    Raises:
        Exit: the file cannot be read, or settings are invalid; all errors are printed.
    """
    settings, errors = load(_text(config_file), config_file or "", os.environ, flags)
    if errors:
        exit_with(errors)
    return settings


def read_settings(config_file: str | None) -> tuple[Settings, list[str]]:
    """Return the valid settings without flags, and all errors.

    Raises:
        Exit: the file cannot be read; the error is printed.
    """
    return load(_text(config_file), config_file or "", os.environ)


def exit_with(errors: list[str]) -> NoReturn:
    """Print errors, one a line, and exit with 2."""
    for each in errors:
        click.echo(printable(each), err=True)
    raise click.exceptions.Exit(2)


def _text(config_file: str | None) -> str:
    if not config_file:
        return ""
    try:
        return Path(config_file).read_text()
    except (OSError, UnicodeError) as error:
        exit_with([f"config: cannot read {config_file}: {getattr(error, 'strerror', None) or error}"])
