"""Load settings from a file, the environment and flags, in ascending precedence. No I/O.

tomllib parses and msgspec converts. By hand, because neither they nor pydantic-settings do it: all errors are reported
at once, each with its key and its source (line, variable or flag), and ``juggler config show`` prints the sources.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from juggler.cli.config.schema import Settings
from juggler.cli.config.table import BY_KEY, GROUPS, SETTINGS, Setting
from juggler.process.address import parse_address

DEFAULT = "default"
_HEADER = re.compile(r"\s*\[\s*([\w.-]+)\s*\]")
_ASSIGNMENT = re.compile(r"\s*([\w.-]+)\s*=")

# Kubernetes sets these for a service named juggler-server, for example.
_is_service_link = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)").fullmatch


def load(
    text: str = "", name: str = "", environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> tuple[Settings, list[str]]:
    """Return the valid settings, and all errors as lines ``config: [group] name: what (source)``.

    Args:
        text: contents of the file.
        name: name of the file.
        environ: the environment.
        flags: values of flags by key: text, a sequence of texts, a boolean, or None if absent.
    """
    reader = _Reader()
    reader.read_file(text, name)
    reader.read_environ(environ or {})
    reader.read_flags(flags or {})
    settings = reader.settings()
    return settings, reader.errors + [f"config: {each}" for each in _conflicts(settings)]


def source_of(settings: Settings, key: str) -> str:
    """Return where the value of a setting comes from."""
    return settings.sources.get(key, DEFAULT)


def given(settings: Settings, groups: Iterable[str]) -> list[str]:
    """Return the sources of settings of these groups or keys; common variables such as REDIS_URL do not count."""
    return [
        source
        for key, source in settings.sources.items()
        if (key in groups or BY_KEY[key].group in groups) and source not in BY_KEY[key].variables[:-1]
    ]


class _Reader:
    def __init__(self) -> None:
        self.errors: list[str] = []
        self._values: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        self._sources: dict[str, str] = {}

    def settings(self) -> Settings:
        groups: dict[str, Any] = {name: struct(**self._values[name]) for name, struct in GROUPS.items()}
        return Settings(**groups, sources={key: self._sources[key] for key in BY_KEY if key in self._sources})

    def read_file(self, text: str, name: str) -> None:
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self._add_error(f"{name}: {error}")
            return
        lines = _lines(text)
        for group, table in tables.items():
            source = f"{name} line {lines.get(group, 1)}"
            if group not in GROUPS:
                self._add_error(f"[{group}]: unknown group{_suggestion(group, GROUPS)}", source)
            elif not isinstance(table, dict):
                self._add_error(f"[{group}]: expected a table{_got(table, group == 'redis')}", source)
            else:
                for key, value in table.items():
                    full = f"{group}.{key}"
                    self._read_key(group, key, value, f"{name} line {lines.get(full, lines.get(group, 1))}")

    def _read_key(self, group: str, name: str, value: Any, source: str) -> None:
        setting = BY_KEY.get(f"{group}.{name}")
        if setting is None:
            self._add_error(f"[{group}] {name}: unknown key{_key_suggestion(group, name)}", source)
        else:
            self._set(setting, source, setting.from_toml, value)

    def read_environ(self, environ: Mapping[str, str]) -> None:
        for setting in SETTINGS:
            for variable in setting.variables:
                # An empty variable counts as unset, as in shells.
                if text := environ.get(variable):
                    self._set(setting, variable, setting.from_text, text)
        known = [setting.variables[-1] for setting in SETTINGS]
        prefixes = tuple(f"JUGGLER_{group.upper()}_" for group in GROUPS)
        for variable in environ:
            if variable.startswith(prefixes) and variable not in known and not _is_service_link(variable):
                self._add_error(f"{variable}: unknown variable{_suggestion(variable, known)}")

    def read_flags(self, flags: Mapping[str, Any]) -> None:
        for key, value in flags.items():
            setting = BY_KEY[key]
            if value is None or value == ():
                continue
            convert = setting.from_text if isinstance(value, str) else setting.from_toml
            self._set(setting, setting.flag, convert, list(value) if isinstance(value, tuple) else value)

    def _set(self, setting: Setting, source: str, convert: Callable[[Any], Any], value: Any) -> None:
        try:
            self._values[setting.group][setting.name] = convert(value)
            self._sources[setting.key] = source
        except ValueError as error:
            got = _got(value, setting.is_secret)
            self._add_error(f"[{setting.group}] {setting.name}: expected {error}{got}", source)

    def _add_error(self, what: str, source: str = "") -> None:
        self.errors.append(f"config: {what}" + (f" ({source})" if source else ""))


def _got(value: Any, is_secret: bool) -> str:
    return "" if is_secret else f", got {value!r}"


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _key_suggestion(group: str, name: str) -> str:
    """Suggest the closest key, of any group."""
    groups = {setting.name: setting.group for setting in SETTINGS}
    close = difflib.get_close_matches(name, groups, 1)
    if not close:
        return ""
    belongs = "" if f"{group}.{close[0]}" in BY_KEY else f" It belongs in [{groups[close[0]]}]."
    return f"; did you mean {close[0]}?{belongs}"


def _lines(text: str) -> dict[str, int]:
    """Return the line numbers of keys and tables, which tomllib does not report; exact for ordinary files."""
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


def _conflicts(settings: Settings) -> list[str]:
    """Return errors that a single type cannot express."""
    errors: list[str] = []

    def add(key: str, what: str) -> None:
        group, _, name = key.partition(".")
        errors.append(f"[{group}] {name}: {what} ({source_of(settings, key)})")

    try:
        parse_address(settings.listen.bind)
    except ValueError as error:
        add("listen.bind", str(error))
    redis = settings.redis
    if redis.caller_url and redis.url:
        where = source_of(settings, "redis.url")
        add("redis.caller_url", f"conflicts with url ({where}); set url, or caller_url and pubsub_url")
    elif redis.caller_url and not redis.pubsub_url:
        add("redis.caller_url", "needs pubsub_url; to use one Redis for calls and events, set url")
    if redis.sharded_pubsub and "+cluster://" not in (redis.pubsub_url or redis.url or ""):
        add("redis.sharded_pubsub", "needs a Redis Cluster, such as redis+cluster://host")
    usual, longest = settings.server.call_timeout, settings.server.max_call_timeout
    if usual > longest:
        if "server.call_timeout" in settings.sources:
            add("server.call_timeout", f"{usual:g} s exceeds max_call_timeout, {longest:g} s")
        else:
            add("server.max_call_timeout", f"{longest:g} s is less than call_timeout, {usual:g} s")
    return errors
