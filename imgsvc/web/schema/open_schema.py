"""Schemas of responses that stay valid when a later version adds keys or values."""

from __future__ import annotations

from typing import Any

_MORE_VALUES = "Values may be added."


def open_schema(node: Any) -> Any:
    """Return a JSON schema whose objects may have further keys, and enumerations further values.

    The models refuse unknown keys, so that tests find a key without a description.
    """
    if isinstance(node, list):
        return [open_schema(each) for each in node]
    if not isinstance(node, dict):
        return node
    opened = {
        key: open_schema(value)
        for key, value in node.items()
        if (key, value) != ("additionalProperties", False)
    }
    return _open_values(opened) if isinstance(opened.get("enum"), list) else opened


def _open_values(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a text: one of the known values, or a value of a later version.

    Generated clients pass an unknown value on, instead of failing.
    """
    known = {"type": schema.pop("type"), "enum": schema.pop("enum"), "description": _MORE_VALUES}
    if title := schema.get("title"):
        known["title"] = f"Known{title}"
    description = f"{schema.pop('description', '')} {_MORE_VALUES}".lstrip()
    return {
        **schema,
        "description": description,
        "anyOf": [known, {"type": known["type"]}],
        "x-extensible-enum": known["enum"],
    }
