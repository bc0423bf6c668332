"""The table of settings, one row per field of the schema: names, help text, conversion of values.

msgspec converts and validates. By hand: values may be texts (variables, flags), and errors list what is valid, because
msgspec's messages show neither the value nor the choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct, inspect

from juggler.cli.config.schema import LARGEST, Settings


class Setting(Struct, frozen=True):
    """A field of a group.

    Attributes:
        key: ``group.name``.
        annotation: its type with constraints.
        kind: bool, int, float, str or tuple (of strings).
        choices: the valid strings, empty where any is.
        is_optional: whether None is a value: ``none`` in variables and flags, ``false`` in the file.
        expected: valid values in words.
        variables: names in the environment, the last one takes precedence.
    """

    group: str
    name: str
    annotation: Any
    kind: type
    choices: tuple[str, ...]
    is_optional: bool
    expected: str
    default: Any
    help: str
    flag: str
    variables: tuple[str, ...]
    is_secret: bool

    @property
    def key(self) -> str:
        return f"{self.group}.{self.name}"

    def from_toml(self, value: Any) -> Any:
        """Convert a value of the file.

        Raises:
            ValueError: it is invalid; the message is `expected`.
        """
        if self.is_optional and (value is False or (isinstance(value, str) and value.lower() in _NONE)):
            return None
        if self.kind is tuple and isinstance(value, str):
            value = [value]
        return self._convert(value, strict=True)

    def from_text(self, text: str) -> Any:
        """Convert the text of a variable or flag.

        Raises:
            ValueError: it is invalid; the message is `expected`.
        """
        if self.is_optional and text.lower() in _NONE:
            return None
        value: Any = text
        if self.kind is tuple:
            value = [part for each in text.split(",") if (part := each.strip())]
        elif self.kind is bool:
            value = _BOOLS.get(text.lower(), text)
        elif self.kind is not str:
            value = text.strip().replace("_", "")  # as in Python and TOML: 1_000
        return self._convert(value, strict=False)

    def _convert(self, value: Any, strict: bool) -> Any:
        try:
            return msgspec.convert(value, self.annotation, strict=strict)
        except msgspec.ValidationError:
            raise ValueError(self.expected) from None


_NONE = ("none", "off", "null")
_BOOLS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_KINDS: dict[type[inspect.Type], type] = {
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.LiteralType: str,
    inspect.VarTupleType: tuple,
}


def _settings() -> Iterator[Setting]:
    for group, struct in GROUPS.items():
        defaults = struct()
        for name, annotation in get_type_hints(struct, include_extras=True).items():
            meta: Meta = annotation.__metadata__[-1]
            extra = meta.extra or {}
            bare = list(_bare(inspect.type_info(annotation)))
            # The first type counts: a number may have a word as an alternative.
            info = next(each for each in bare if not isinstance(each, inspect.NoneType))
            is_optional = len(bare) > 1
            # In the order of the source, which msgspec does not keep.
            choices = get_args(annotation.__origin__) if isinstance(info, inspect.LiteralType) else ()
            yield Setting(
                group=group,
                name=name,
                annotation=annotation,
                kind=_KINDS[type(info)],
                choices=choices,
                is_optional=is_optional,
                expected=extra["expected"] or _expected(info, choices) + (", or none" if is_optional else ""),
                default=getattr(defaults, name),
                help=meta.description or "",
                flag=extra["flag"] or "--" + name.replace("_", "-"),
                variables=tuple(filter(None, (extra["variable"], f"JUGGLER_{group}_{name}".upper()))),
                is_secret=extra["is_secret"],
            )


def _bare(info: inspect.Type) -> Iterator[inspect.Type]:
    """Yield the types of a union, without metadata."""
    if isinstance(info, inspect.Metadata):
        yield from _bare(info.type)
    elif isinstance(info, inspect.UnionType):
        for each in info.types:
            yield from _bare(each)
    else:
        yield info


def _expected(info: inspect.Type, choices: tuple[str, ...]) -> str:
    """Return the valid values of a type in words."""
    if isinstance(info, (inspect.IntType, inspect.FloatType)):
        kind = "an integer" if isinstance(info, inspect.IntType) else "a number"
        limit = f"of at least {info.ge:g}" if info.ge is not None else f"greater than {info.gt:g}"
        return f"{kind} {limit}" + (f" and at most {info.le:g}" if info.le not in (None, LARGEST) else "")
    if choices:
        return "one of " + ", ".join(choices)
    return {inspect.BoolType: "true or false", inspect.VarTupleType: "a list of strings"}.get(type(info), "a string")


def show(value: Any) -> str:
    """Return a value as it is written in variables and flags."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


GROUPS: dict[str, type[Struct]] = {
    name: struct for name, struct in get_type_hints(Settings).items() if isinstance(struct, type(Struct))
}
SETTINGS = tuple(_settings())
BY_KEY = {setting.key: setting for setting in SETTINGS}
