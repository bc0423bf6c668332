"""How the arguments of a call become those of a Python function. Prepared once for each function. PURE.

An array fills the parameters by position, an object by name, and any other value is the only argument. ``null``, which
is also sent for a call without arguments, means no arguments if the function has no required parameters. A parameter
annotated `callee.Caller` is no argument: it receives the caller.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from inspect import Parameter
from typing import Any, NamedTuple, get_args

import msgspec

from juggler.broker import Caller
from juggler.callee.current import running
from juggler.callee.examples import example_of
from juggler.callee.failures import InvalidArguments
from juggler.callee.schemas import Described, schema_of
from juggler.callee.type_schemas import ANY, contains

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_SHOWN = 60


class _Expected(NamedTuple):
    """A parameter: its name and the type that its argument is converted to; ``None`` means no conversion.

    A parameter that ``takes_floats`` gets floats although the arguments were decoded with decimals.
    """

    name: str
    type: Any
    required: bool
    takes_floats: bool = False


class Binding:
    """Calls a function with decoded arguments, validated against its annotations and converted.

    Attributes:
        signature: parameters and result of the function, for the catalogue.
        is_exact: whether a parameter is or contains a ``Decimal``: then numbers that are not integers are to be decoded
            as ``Decimal``, or they lose digits.
    """

    def __init__(self, uri: str, function: Callable[..., Any], whole: bool = False) -> None:
        """Inspect the parameters of a function.

        Args:
            uri: URI of the function, for errors.
            function: the function.
            whole: pass the decoded arguments, of any type, to the only parameter.

        Raises:
            TypeError: an annotation cannot be evaluated, JSON does not support its type, a parameter for the caller is
                not exactly one annotated `callee.Caller`, or ``whole`` is set and the function cannot be called with
                one argument.
        """
        signature = _signature(uri, function)
        parameters = None if signature is None else list(signature.parameters.values())
        self._hidden = _bound_names(function)
        self._function = function
        if parameters is not None and (taking := _parameter_for_caller(uri, parameters)):
            self._function = _passing_caller(function, parameters, taking)
            if taking.kind is not Parameter.POSITIONAL_ONLY:
                self._hidden += (taking.name,)
            parameters.remove(taking)
        self.is_exact = any(_has_decimals(parameter.annotation) for parameter in parameters or ())
        self._parameters = parameters or []
        self._is_whole = whole
        self._described = function, parameters, Any if signature is None else signature.return_annotation
        self.signature = "(...)" if signature is None else str(signature.replace(parameters=self._parameters))
        self._positional: list[_Expected] = []
        self._named: dict[str, _Expected] = {}
        self._defaults: dict[str, Any] = {}
        self._more: _Expected | None = None
        self._more_named: _Expected | None = None
        self._by_position_only: tuple[str, ...] = ()
        if parameters is None:
            # Some built-in functions have no signature; they validate their arguments themselves.
            self._more = _Expected("", None, False)
        else:
            self._inspect(uri, parameters)
        self._least = sum(each.required for each in self._positional)
        self._required = [each.name for each in self._named.values() if each.required]
        self._all_optional = not self._required
        if whole:
            self._check_whole(uri)
        self.call = self._call_whole if whole else self._call

    def _inspect(self, uri: str, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            expected = _Expected(
                parameter.name,
                _checked_type(uri, parameter),
                parameter.default is Parameter.empty,
                self.is_exact and not _has_decimals(parameter.annotation),
            )
            if parameter.kind is Parameter.VAR_POSITIONAL:
                self._more = expected
            elif parameter.kind is Parameter.VAR_KEYWORD:
                self._more_named = expected
            else:
                self._named[parameter.name] = expected
                if parameter.kind in _POSITIONAL:
                    self._positional.append(expected)
                if parameter.kind is Parameter.POSITIONAL_ONLY:
                    self._by_position_only += (parameter.name,)
                    self._defaults[parameter.name] = parameter.default

    def example(self) -> str:
        """Return arguments that the function accepts, for the catalogue; see `juggler.callee.examples.example_of`."""
        return example_of(self._parameters, self._is_whole)

    def schema(self, doc: str) -> bytes:
        """Return the JSON Schemas of the function, for the catalogue; see `juggler.callee.schemas.schema_of`."""
        return schema_of(Described(*self._described, self._is_whole, self._hidden, doc))

    def _check_whole(self, uri: str) -> None:
        others = [name for name in self._required if not self._positional or name != self._positional[0].name]
        if others or not (self._positional or self._more):
            raise TypeError(f"{uri}: whole=True needs a function of one parameter, got {self.signature}")

    def _call_whole(self, value: Any) -> Any:
        return self._function(_convert(value, self._positional[0]) if self._positional else value)

    def _call(self, value: Any) -> Any:
        """Call the function.

        Raises:
            InvalidArguments: they do not match the parameters; the function was not called.
            BaseException: any exception of the function.
        """
        kind = type(value)
        if kind is list:
            return self._call_by_position(value)
        if kind is dict:
            return self._call_by_name(value)
        if value is None and self._all_optional:
            return self._function()
        return self._call_by_position([value])

    def _call_by_position(self, values: list[Any]) -> Any:
        positional = self._positional
        count = len(values)
        if count != len(positional) or len(self._required) > self._least:
            self._check_count(count)
        arguments = [_convert(value, expected) for value, expected in zip(values, positional, strict=False)]
        if count > len(positional):
            more = self._more
            assert more is not None
            arguments += [_convert(value, more) for value in values[len(positional) :]]
        return self._function(*arguments)

    def _check_count(self, count: int) -> None:
        if count > len(self._positional) and self._more is None:
            most = _counted(len(self._positional), "argument")
            raise InvalidArguments(f"expected {most}{self._names()}, got {count}")
        given = {each.name for each in self._positional[:count]}
        self._check_required(given)

    def _call_by_name(self, values: dict[str, Any]) -> Any:
        self._check_required(values.keys())
        named: dict[str, Any] = {}
        for name, value in values.items():
            expected = self._named.get(name) or self._other(name)
            named[name] = _convert(value, expected)
        if not self._by_position_only:
            return self._function(**named)
        first = []
        for name in self._by_position_only:
            first.append(named.pop(name, self._defaults[name]))
        return self._function(*first, **named)

    def _other(self, name: str) -> _Expected:
        if self._more_named is None or name in self._hidden:
            raise InvalidArguments(f"{name[:_SHOWN]}: unknown parameter{self._names()}")
        return self._more_named._replace(name=name)

    def _check_required(self, given: Any) -> None:
        for name in self._required:
            if name not in given:
                raise InvalidArguments(f"{name}: missing{self._names()}")

    def _names(self) -> str:
        names = ", ".join(self._named)
        return f" (the parameters are {names})" if names else ""


def _signature(uri: str, function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function, eval_str=True)
    except ValueError:
        return None
    except Exception as error:
        raise TypeError(f"{uri}: cannot evaluate an annotation: {error}") from error


def _bound_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters that a ``functools.partial`` has bound by position."""
    if not isinstance(function, partial):
        return ()
    try:
        parameters = list(inspect.signature(function.func).parameters.values())[: len(function.args)]
    except (TypeError, ValueError):
        return ()
    return tuple(each.name for each in parameters if each.kind is Parameter.POSITIONAL_OR_KEYWORD)


def _parameter_for_caller(uri: str, parameters: list[Parameter]) -> Parameter | None:
    """Return the parameter that receives the caller, if there is one."""
    found = [parameter for parameter in parameters if _mentions_caller(parameter.annotation)]
    if len(found) > 1:
        raise TypeError(f"{uri}: expected at most one parameter of type Caller, got {len(found)}")
    for parameter in found:
        if parameter.annotation is not Caller or parameter.kind in _VARIADIC:
            raise TypeError(f"{uri}: expected a parameter annotated Caller, got {parameter}")
        return parameter
    return None


def _mentions_caller(annotation: Any) -> bool:
    return annotation is Caller or any(map(_mentions_caller, get_args(annotation)))


def _passing_caller(function: Callable[..., Any], parameters: list[Parameter], taking: Parameter) -> Callable[..., Any]:
    """Return a function without the parameter for the caller, which passes the caller of the running call."""
    before = [parameter for parameter in parameters[: parameters.index(taking)] if parameter.kind in _POSITIONAL]
    by_position = taking.kind is Parameter.POSITIONAL_ONLY
    index = len(before) if taking.kind in _POSITIONAL else sys.maxsize

    def passing_caller(*arguments: Any, **named: Any) -> Any:
        call = running.get(None)
        caller = Caller() if call is None else call.caller
        if by_position:
            arguments += tuple(parameter.default for parameter in before[len(arguments) :])
        elif len(arguments) <= index:
            return function(*arguments, **named, **{taking.name: caller})
        return function(*arguments[:index], caller, *arguments[index:], **named)

    return passing_caller


def _checked_type(uri: str, parameter: Parameter) -> Any:
    """Return the type of a parameter; ``None`` means any."""
    wanted = parameter.annotation
    if wanted in ANY:
        return None
    try:
        msgspec.json.schema(wanted)
    except Exception as error:
        what = f"{uri}: parameter {parameter.name}: JSON does not support the type {inspect.formatannotation(wanted)}"
        raise TypeError(f"{what} ({error})") from error
    if contains(wanted, msgspec.inspect.RawType):
        what = f"{uri}: parameter {parameter.name}: arguments are decoded and cannot become msgspec.Raw"
        raise TypeError(f"{what}; annotate Any, or register with raw=True for JSON text")
    return type(None) if wanted is None else wanted


def _has_decimals(annotation: Any) -> bool:
    try:
        return annotation not in ANY and contains(annotation, msgspec.inspect.DecimalType)
    except Exception:
        return False  # `_checked_type` reports it


def _floats(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [_floats(part) for part in value]
    if isinstance(value, dict):
        return {key: _floats(part) for key, part in value.items()}
    return value


def _convert(value: Any, expected: _Expected) -> Any:
    wanted = expected.type
    if expected.takes_floats:
        value = _floats(value)
    if wanted is None or type(value) is wanted:
        return value
    try:
        return msgspec.convert(value, wanted, str_keys=True)
    except msgspec.ValidationError as error:
        what, _, path = str(error).replace("`", "").partition(" - at $")
        raise InvalidArguments(f"{expected.name}{path}: {what}") from None
    except TypeError as error:  # the items of a set cannot be hashed
        raise InvalidArguments(f"{expected.name}: {error}") from None


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number or 'no'} {what}s"
