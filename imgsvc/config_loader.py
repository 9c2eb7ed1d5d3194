"""Read the configuration: defaults, `config.toml`, environment variables and command-line flags.

Each source overrides the ones before it.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from imgsvc.config import Config
from imgsvc.errors import ConfigError

ENV_PREFIX = "IMGSVC_"
RENAMED_KEYS = {
    "fetch.total_seconds": "fetch.timeout_seconds",
    "fetch.idle_seconds": "fetch.read_timeout_seconds",
    "compress.seconds": "compress.timeout_seconds",
    "webhook.pauses_seconds": "webhook.retry_delays_seconds",
}
"""Keys that were renamed, old name to new name. The old names still work."""


def load_config(
    file: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Return the configuration.

    `file` is the path from `--config`. Without it, the file is `IMGSVC_CONFIG`, or `./config.toml` if
    that exists. `flags` maps dotted keys (`"server.port"`) to values. A relative folder is relative
    to the file, or to the working directory if there is no file. Raise `ConfigError`, which names the
    key and its source.
    """
    path = file or (Path(environ["IMGSVC_CONFIG"]) if environ.get("IMGSVC_CONFIG") else None)
    if path is None and Path("config.toml").is_file():
        path = Path("config.toml")
    values: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    if path is not None:
        _merge(values, sources, _read_file(path), str(path))
    for name, text in environ.items():
        if name.startswith(ENV_PREFIX) and "__" in name:
            section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
            value = _parse_environment_value(section, key, text, name)
            if value is not None:
                _merge(values, sources, {section: {key: value}}, name)
    for dotted, value in (flags or {}).items():
        section, _, key = dotted.partition(".")
        _merge(values, sources, {section: {key: value}}, f"--{key.replace('_', '-')}")
    old_names = _apply_new_names(values, sources)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_error_message(error, sources, old_names)) from None
    config._warnings = tuple(
        f"{old} is now {new}; the old name still works" for new, old in old_names.items()
    )
    base = path.parent if path is not None else Path()
    folders = {
        "storage": ("data_dir", config.storage.data_dir),
        "cluster": ("certificates", config.cluster.certificates),
    }
    for section, (key, folder) in folders.items():
        try:
            absolute = (base / folder.expanduser()).resolve()
        except RuntimeError as error:  # an unknown user's home, or a loop of symbolic links
            source = sources.get(f"{section}.{key}", "configuration")
            raise ConfigError(f"{source}: {section}.{key}: {error}") from None
        changed = getattr(config, section).model_copy(update={key: absolute})
        config = config.model_copy(update={section: changed})
    return config


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def _merge(
    values: dict[str, dict[str, Any]],
    sources: dict[str, str],
    more: Mapping[str, Any],
    source: str,
) -> None:
    for section, keys in more.items():
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{source}: {section} must be inside a section{_suggestion(section)}")
        if section not in Config.model_fields:
            raise ConfigError(f"{source}: unknown section [{section}]{_suggestion(section)}")
        for key, value in keys.items():
            values.setdefault(section, {})[key] = value
            sources[f"{section}.{key}"] = source


def _apply_new_names(values: dict[str, dict[str, Any]], sources: dict[str, str]) -> dict[str, str]:
    """Move the value of each renamed key to the key's new name, in `values` and `sources`.

    Return the old names that were used, by new name. Raise `ConfigError` if a key is set under both
    names, even if the values are equal.
    """
    old_names: dict[str, str] = {}
    conflicts = []
    for old, new in RENAMED_KEYS.items():
        if old not in sources:
            continue
        if new in sources:
            conflicts.append(
                f"{sources[old]}: {old} is the old name of {new}, which is set by {sources[new]}. "
                f"Remove {old}."
            )
            continue
        section, _, old_key = old.partition(".")
        values[section][new.partition(".")[2]] = values[section].pop(old_key)
        sources[new] = sources.pop(old)
        old_names[new] = old
    if conflicts:
        raise ConfigError("\n".join(conflicts))
    return old_names


def _suggestion(name: str) -> str:
    """Return a question that suggests the section or key closest to `name`, or `""`."""
    names = {name: f"[{name}]" for name in Config.model_fields}
    for section, keys in Config().model_dump().items():
        for key in keys:
            names |= {key: f"{section}.{key}", f"{section}.{key}": f"{section}.{key}"}
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {names[close[0]]}?" if close else ""


def _parse_environment_value(section: str, key: str, text: str, name: str) -> object:
    """Return the value of the environment variable `name`.

    Lists and tables are JSON. None: an empty text counts as not set, so that compose.yaml can pass an
    optional key. Pydantic converts all other types from `text`. Raise `ConfigError` if the JSON is not
    valid.
    """
    key = RENAMED_KEYS.get(f"{section}.{key}", f"{section}.{key}").partition(".")[2]
    field = Config.model_fields.get(section)
    model = field.annotation if field is not None else None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return text
    setting = model.model_fields.get(key)
    kind = typing.get_origin(setting.annotation) if setting is not None else None
    if kind not in {tuple, dict}:
        return text
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if kind is tuple and not isinstance(value, list):
        raise ConfigError(f'{name}: must be a JSON list, such as ["a", "b"]')
    if kind is dict and not isinstance(value, dict):
        raise ConfigError(
            f'{name}: must be a JSON object, such as {{"Referer": "https://a.example/"}}'
        )
    return value


_PLAIN_MESSAGES = {
    "tuple_type": "must be a list",
    "path_type": "must be a path",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "missing": "is missing",
    "model_type": "must be a table",
}
"""Plain messages for pydantic's error types whose own messages use Python terms."""


def _error_message(
    error: ValidationError, sources: Mapping[str, str], old_names: Mapping[str, str]
) -> str:
    """Return one line for each invalid value: its source, its key and the problem.

    A key that was set under its old name is reported under that name.
    """
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        section, key, *rest = (*map(str, problem["loc"]), "")
        dotted = f"{section}.{key}"
        name = old_names.get(dotted, dotted)
        position = f"{name}[{rest[0]}]" if rest and rest[0].isdigit() else name
        if len(rest) > 2:  # a key of a table in a list
            position += f".{rest[1]}"
        if problem["type"] == "extra_forbidden":
            message = "unknown key" + ("" if rest[0] else _suggestion(dotted))
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = message.replace("Input should be", "must be")
            message = _PLAIN_MESSAGES.get(problem["type"], message)
        lines.append(f"{sources.get(dotted, 'configuration')}: {position}: {message}")
    return "\n".join(lines)
