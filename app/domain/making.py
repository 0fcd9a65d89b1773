"""Make frozen values in less time: a decision makes hundreds of them, and setting their fields takes a tenth of it.

The `__init__` of a frozen dataclass sets each field by name, past the class's own refusal to be changed; every time
the name is looked up in the class. Slots are descriptors, which can be asked once and set directly.
"""

from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Any, Final, TypeVar

Value = TypeVar("Value")
NOT_GIVEN: Final = object()
"""Stands for a field that has a factory and was not named."""


def made_quickly(kind: type[Value]) -> type[Value]:
    """Let a frozen, slotted dataclass with keyword-only fields set its slots directly; nothing else of it changes.

    Raises:
        TypeError: a field is not keyword-only.
    """
    names: dict[str, Any] = {"NOT_GIVEN": NOT_GIVEN}
    parameters, lines = [], []
    for spec in fields(kind):  # type: ignore[arg-type]
        if not spec.kw_only:
            raise TypeError(f"{kind.__name__}.{spec.name} is not keyword-only")
        field, default = spec.name, ""
        names[f"set_{field}"] = vars(kind)[field].__set__
        if spec.default is not MISSING:
            names[f"default_{field}"], default = spec.default, f"=default_{field}"
        elif spec.default_factory is not MISSING:
            names[f"make_{field}"], default = spec.default_factory, "=NOT_GIVEN"
            lines.append(f"    if {field} is NOT_GIVEN: {field} = make_{field}()")
        parameters.append(field + default)
        lines.append(f"    set_{field}(self, {field})")
    if hasattr(kind, "__post_init__"):
        lines.append("    self.__post_init__()")
    # As dataclasses writes the one that this takes the place of: from the names of fields, and from nothing else.
    exec("\n".join([f"def __init__(self, *, {', '.join(parameters)}):", *lines]), names)  # noqa: S102
    written: Callable[..., None] = names["__init__"]
    kind.__init__ = wraps(kind.__init__)(written)  # type: ignore[method-assign]
    return kind
