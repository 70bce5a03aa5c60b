"""What the help of every command calls the value of an option, by the option's type."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

METAVARS = {str: "NAME", Path: "PATH", int: "N", float: "NUMBER"}
"""A field with a better word for its value says so with ``tyro.conf.arg(metavar=...)``."""

Weights = Annotated[str, tyro.conf.arg(metavar="NAME|FILE")]
"""The type of an option for weights: a shipped name or a .safetensors file."""
Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...", help_behavior_hint="")]
"""The type of an option for another program's own options."""


def of(kind: Any) -> str:
    """Returns the metavar of a field's type.

    Example:
        >>> of(Path | None), of(tuple[str, ...])
        ('PATH', 'NAME')
    """
    if kind in METAVARS:
        return METAVARS[kind]
    inner = [part for part in typing.get_args(kind) if part not in (type(None), Ellipsis)]
    return of(inner[0]) if inner else "VALUE"


def registry() -> ConstructorRegistry:
    """Returns tyro's rules that give our metavars, as a context in which they hold."""
    rules = ConstructorRegistry()

    @rules.primitive_rule
    def named(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        """A type with a metavar of ours."""
        kind = info.type
        if kind not in METAVARS:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=METAVARS[kind],
            instance_from_str=lambda words: kind(words[0]),
            is_instance=lambda value: isinstance(value, (int, float) if kind is float else kind),
            str_from_instance=lambda value: [str(value)],
        )

    @rules.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        """A type or None: the help shows the type alone, and the word None is still understood."""
        parts = typing.get_args(info.type)
        if info.type_origin not in (typing.Union, types.UnionType) or len(parts) != 2 or type(None) not in parts:
            return None
        (kind,) = (part for part in parts if part is not type(None))
        inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
        if not isinstance(inner, PrimitiveConstructorSpec):
            return None
        return dataclasses.replace(
            inner,
            instance_from_str=lambda words: None if words == ["None"] else inner.instance_from_str(words),
            is_instance=lambda value: value is None or inner.is_instance(value),
            str_from_instance=lambda value: ["none"] if value is None else inner.str_from_instance(value),
            choices=None if inner.choices is None else (*inner.choices, "None"),
        )

    @rules.primitive_rule
    def several(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        """Any number of values of one type."""
        parts = typing.get_args(info.type)
        if info.type_origin is not tuple or len(parts) != 2 or parts[1] is not Ellipsis:
            return None
        inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(parts[0], info.markers))
        if not isinstance(inner, PrimitiveConstructorSpec):
            return None
        return dataclasses.replace(
            inner,
            nargs="*",
            metavar=f"[{inner.metavar} ...]",
            instance_from_str=lambda words: tuple(inner.instance_from_str([word]) for word in words),
            is_instance=lambda value: isinstance(value, tuple) and all(map(inner.is_instance, value)),
            str_from_instance=lambda value: (
                [word for each in value for word in inner.str_from_instance(each)] or ["none"]
            ),
        )

    return rules
