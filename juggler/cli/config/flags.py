"""Settings for commands: flags made from the table, and the file and the environment that go with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from juggler.cli.config.load import Settings, load, read
from juggler.cli.config.table import BY_KEY, SETTINGS, Setting
from juggler.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    envvar="JUGGLER_CONFIG",
    show_envvar=True,
    help="Settings as TOML. Variables (JUGGLER_SERVER_MAX_CALLS) count before it, flags before both.",
)


def setting_options(command: F) -> F:
    """Give a command a flag for each setting, and the file."""
    for setting in reversed(SETTINGS):
        command = _option(setting)(command)
    return config_option(command)


def _option(setting: Setting) -> Callable[[F], F]:
    names = [setting.flag, setting.key]
    help = f"{setting.help} [default: {setting.shown_default or 'none'}]"
    if setting.kind is bool:
        names = [f"{setting.flag}/--no-{setting.flag[2:]}", setting.key]
        return click.option(*_as_parameter(names), default=None, help=help)
    metavar = {int: "NUMBER", float: "SECONDS", str: "TEXT", list: "TEXT"}[setting.kind]
    return click.option(*_as_parameter(names), metavar=metavar, multiple=setting.kind is list, help=help)


def _as_parameter(names: list[str]) -> list[str]:
    return [names[0], names[1].replace(".", "__")]


def flags_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags among a command's parameters, by key."""
    return {key: parameters[key.replace(".", "__")] for key in BY_KEY if key.replace(".", "__") in parameters}


def load_settings(config_file: str | None, flags: Mapping[str, Any]) -> Settings:
    """Return the effective settings.

    Raises:
        ConfigError: the file cannot be read, or settings are wrong; with all errors.
    """
    return load(_text(config_file), config_file or "", os.environ, flags)


def read_settings(config_file: str | None) -> tuple[Settings, list[str]]:
    """Return the settings without flags, and what is wrong with them.

    Raises:
        ConfigError: the file cannot be read.
    """
    return read(_text(config_file), config_file or "", os.environ)


def _text(config_file: str | None) -> str:
    if not config_file:
        return ""
    try:
        return Path(config_file).read_text()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot read {config_file}: {getattr(error, 'strerror', None) or error}") from error
