"""From texts to settings: the file, then the environment, then flags; the later counts. No I/O.

All that is wrong is found at once, and each error names the key and where the value came from.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from juggler.cli.config.table import BY_KEY, GROUPS, SETTINGS, Setting
from juggler.errors import ConfigError

_DEFAULT = "default"
_HEADER = re.compile(r"\s*\[\s*([\w.-]+)\s*\]")
_ASSIGNMENT = re.compile(r"\s*([\w.-]+)\s*=")


class Value(NamedTuple):
    """A value, and where it came from, for people."""

    value: Any
    source: str

    @property
    def is_given(self) -> bool:
        return self.source != _DEFAULT


class Settings:
    """All settings, by key."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = {setting.key: values.get(setting.key, Value(setting.default, _DEFAULT)) for setting in SETTINGS}

    def __getitem__(self, key: str) -> Any:
        return self.values[key].value

    def group(self, name: str) -> dict[str, Any]:
        """Return the values of a group, by name."""
        return {setting.name: self[setting.key] for setting in SETTINGS if setting.group == name}

    def given(self, of: Iterable[str]) -> list[str]:
        """Return where the values of some groups or keys come from that are not defaults: ``--max-calls``."""
        return [
            value.source
            for key, value in self.values.items()
            if (key in of or BY_KEY[key].group in of) and value.is_given and value.source not in BY_KEY[key].variables
        ]


def load(
    text: str = "", name: str = "", environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Return the effective settings.

    Args:
        text: the file's text, empty where there is none.
        name: the file's name.
        environ: the environment.
        flags: values of flags by key: texts, or sequences of texts, or booleans; None where a flag is not given.

    Raises:
        ConfigError: with all errors, joined by ``; ``.
    """
    settings, errors = read(text, name, environ, flags)
    if errors:
        raise ConfigError("; ".join(errors))
    return settings


def read(
    text: str = "", name: str = "", environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> tuple[Settings, list[str]]:
    """As `load`, but return the errors beside the settings that are left."""
    reading = _Reading()
    reading.read_file(text, name)
    reading.read_environ(environ or {})
    reading.read_flags(flags or {})
    settings = Settings(reading.values)
    return settings, reading.errors + _contradictions(settings)


class _Reading:
    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.errors: list[str] = []

    def read_file(self, text: str, name: str) -> None:
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self.errors.append(f"{name}: {error}")
            return
        lines = _lines(text)
        for group, table in tables.items():
            source = f"{name} line {lines.get(group, 1)}"
            if group not in GROUPS:
                self._unknown(source, group, GROUPS)
            elif not isinstance(table, dict):
                self.errors.append(f"{source}: {group}: expected a table, got {_shown(table, group == 'redis')}")
            else:
                for key, value in table.items():
                    full = f"{group}.{key}"
                    self._read_key(full, value, f"{name} line {lines.get(full, lines.get(group, 1))}")

    def _read_key(self, key: str, value: Any, source: str) -> None:
        setting = BY_KEY.get(key)
        if setting is None:
            self._unknown(source, key, list(BY_KEY))
        else:
            self._take(setting, source, setting.from_toml, value)

    def read_environ(self, environ: Mapping[str, str]) -> None:
        names = {setting.variable for setting in SETTINGS}
        for setting in SETTINGS:
            # An empty variable is none, as in shells; the newer name counts.
            for variable in (*setting.variables, setting.variable):
                if environ.get(variable):
                    self._take(setting, variable, setting.from_text, environ[variable])
        prefixes = tuple(f"JUGGLER_{group.upper()}_" for group in GROUPS)
        for variable in environ:
            if variable.startswith(prefixes) and variable not in names:
                self._unknown("environment", variable, list(names))

    def read_flags(self, flags: Mapping[str, Any]) -> None:
        for key, value in flags.items():
            setting = BY_KEY[key]
            if value is None or value == ():
                continue
            convert = setting.from_text if isinstance(value, str) else setting.from_toml
            self._take(setting, setting.flag, convert, list(value) if isinstance(value, tuple) else value)

    def _take(self, setting: Setting, source: str, convert: Any, value: Any) -> None:
        try:
            self.values[setting.key] = Value(convert(value), source)
        except ValueError as error:
            where = source if source in (setting.flag, setting.variable) else f"{source}: {setting.key}"
            self.errors.append(f"{where}: expected {error}, got {_shown(value, setting.is_secret)}")

    def _unknown(self, source: str, name: str, known: Iterable[str]) -> None:
        close = difflib.get_close_matches(name, known, 1)
        self.errors.append(f"{source}: unknown {name!r}" + (f", do you mean {close[0]!r}?" if close else ""))


def _shown(value: Any, is_secret: bool) -> str:
    return "something else" if is_secret else repr(value)


def _lines(text: str) -> dict[str, int]:
    """Return the numbers of the lines on which keys and tables stand. Only for people: exact for what people write."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1]
            found.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            key = f"{table}.{assignment[1]}" if table else assignment[1]
            found.setdefault(key, number)
            found.setdefault(key.partition(".")[0], number)
    return found


def _contradictions(settings: Settings) -> list[str]:
    errors = []
    url, caller, pubsub = (settings.values[f"redis.{name}"] for name in ("url", "caller_url", "pubsub_url"))
    if caller.value and url.value:
        errors.append(
            f"{caller.source}: redis.caller_url contradicts redis.url ({url.source}): one Redis for both, or two"
        )
    elif caller.value and not pubsub.value:
        errors.append(f"{caller.source}: redis.caller_url needs redis.pubsub_url, or give redis.url for both")
    longest, usual = settings.values["server.max_call_timeout"], settings.values["server.call_timeout"]
    if longest.value > BY_KEY["server.max_call_timeout"].default:
        errors.append(f"{longest.source}: server.max_call_timeout: expected at most 86400 s, got {longest.value:g}")
    if usual.value > longest.value:
        where = usual.source if usual.is_given else longest.source
        errors.append(
            f"{where}: server.call_timeout ({usual.value:g} s) is over server.max_call_timeout ({longest.value:g} s)"
        )
    if settings["redis.sharded_pubsub"] and "+cluster://" not in (pubsub.value or url.value or ""):
        source = settings.values["redis.sharded_pubsub"].source
        errors.append(f"{source}: redis.sharded_pubsub needs a Redis Cluster, such as redis+cluster://host")
    return errors
