# SPDX-License-Identifier: GPL-2.0-only
"""Dataclasses as JSON and back, by their type hints, so that a new field needs no word here.

What is read may be older than this code (a field that is missing takes its default) or
newer (one that is unknown is left alone).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

_T = TypeVar("_T")
_ADDRESSES = (IPv4Address, IPv6Address, IPv4Network, IPv6Network)


def dumped(value: object) -> bytes:
    """A dataclass, or a mapping, as JSON."""
    return json.dumps(_plain(value), separators=(",", ":")).encode()


def loaded(kind: type[_T], text: bytes) -> _T:
    """The dataclass that `dumped` made this of.

    Raises:
        ValueError: It is not one.
    """
    result: _T = _typed(kind, json.loads(text))
    return result


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, _ADDRESSES) else value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _typed(hint: Any, data: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _one_of(arguments, data)
    if origin is tuple:
        return tuple(_typed(arguments[0], item) for item in _checked(data, list))
    if origin is dict:
        key, item = arguments
        items = _checked(data, dict).items()
        return {(key(name) if key is int else _typed(key, name)): _typed(item, one) for name, one in items}
    if dataclasses.is_dataclass(hint):
        given = _checked(data, dict)
        try:
            return hint(**{n: _typed(h, given[n]) for n, h in _hints(hint).items() if n in given})  # type: ignore[arg-type, operator]  # it is a class
        except TypeError as exc:
            raise ValueError(str(exc)) from exc
    if hint in _ADDRESSES or issubclass(hint, enum.Enum):
        return hint(data)
    return _checked(data, hint)


def _one_of(hints: tuple[Any, ...], data: Any) -> Any:
    if data is None and types.NoneType in hints:
        return None
    for hint in hints:
        try:
            return _typed(hint, data)
        except ValueError:
            continue
    raise ValueError(f"{type(data).__name__} is none of {hints}")


def _checked(data: Any, kind: type) -> Any:
    if isinstance(data, kind) and not (kind is int and isinstance(data, bool)):
        return data
    raise ValueError(f"{type(data).__name__} instead of {kind.__name__}")
