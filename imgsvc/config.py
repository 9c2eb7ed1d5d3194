"""The configuration: defaults, `config.toml`, environment variables and command-line flags.

Each source overrides the ones before it.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import json
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from imgsvc import __version__
from imgsvc.errors import ConfigError
from imgsvc.image_types import CompressionSettings, OutputFormat, Quality
from imgsvc.urls import page_origin

ENV_PREFIX = "IMGSVC_"
RENAMED_KEYS = {
    "fetch.total_seconds": "fetch.timeout_seconds",
    "fetch.idle_seconds": "fetch.read_timeout_seconds",
    "compress.seconds": "compress.timeout_seconds",
    "webhook.pauses_seconds": "webhook.retry_delays_seconds",
}
"""Keys that were renamed, old name to new name. The old names still work."""
_BYTE_SIZE = TypeAdapter(ByteSize)


def parse_size(value: object) -> object:
    """Return the number of bytes of a size such as `"256 MiB"`.

    Return a value that is not a string unchanged; pydantic validates it. Raise `ValueError` if the
    string is not a size. Pydantic's `ByteSize` knows the units, but reads only the start of a text
    ("1,5 GB" as 1), so its form is checked first.
    """
    if not isinstance(value, str):
        return value
    try:
        if re.fullmatch(r"\s*[0-9]{1,15}(\.[0-9]{1,9})?\s*[A-Za-z]*\s*", value):
            return int(_BYTE_SIZE.validate_python(value))
    except ValidationError:
        pass
    raise ValueError('must be a number of bytes, or a size such as "256 MiB"')


def _http_url_or_empty(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value, re.IGNORECASE):
        raise ValueError('must be "" or an http(s) URL without user name, query or fragment')
    if value:
        page_origin(value)
    return value.rstrip("/")


def _proxy(value: str) -> str:
    if value and not re.fullmatch(r"https?://([^\s/?#@]*@)?[^\s/?#@]+/?", value, re.IGNORECASE):
        raise ValueError('must be "" or a URL such as "http://user:password@proxy.example:3128"')
    try:
        _ = urlsplit(value).port
    except ValueError:
        raise ValueError("has an invalid host or port") from None
    return value


def _origin(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@,*]+", value, re.IGNORECASE):
        raise ValueError('must be an origin such as "https://shop.example"')
    return page_origin(value)


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(
            'must be a network such as "10.1.0.0/16"; all bits after the prefix must be zero'
        ) from None
    return value


def _api_key(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("must be printable ASCII characters without spaces")
    return value


def _header_value(value: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]+", value) or value != value.strip():
        raise ValueError("must be one line of printable ASCII")
    return value


def _webhook_secret(value: str) -> str:
    try:
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if value and not (value.startswith("whsec_") and key):
        raise ValueError('must be "" or "whsec_" followed by base64')
    return value


def _path(value: object) -> object:
    if value == "":
        raise ValueError('must be a folder; "." is the folder of the configuration file')
    if "\0" in str(value):
        raise ValueError("must not contain a NUL character")
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 365, allow_inf_nan=False)]
HttpUrl = Annotated[str, AfterValidator(_http_url_or_empty)]
QualitySetting = Annotated[
    Quality,
    BeforeValidator(lambda value: value if isinstance(value, Quality) else Quality.parse(value)),
    PlainSerializer(str),
]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _reject_bool_for_number(cls, value: object, info: ValidationInfo) -> object:
        """Raise `ValueError` for `port = true`, which pydantic would read as 1."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation in {int, float}:
            raise ValueError("must be a number")
        return value


class ServerConfig(_Section):
    """Settings of the HTTP server and of uploads."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    public_url: HttpUrl = ""
    api_keys: tuple[Annotated[str, AfterValidator(_api_key)], ...] = ()
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    max_upload_bytes: Annotated[Size, Field(ge=1)] = 256 * 2**20
    max_images_per_request: Annotated[int, Field(ge=1)] = 1_000_000
    max_waiting_images: Annotated[int, Field(ge=1)] = 5_000_000
    upload_idle_seconds: Seconds = 30
    spreadsheet_seconds: Seconds = 300
    shutdown_seconds: Seconds = 30


class StorageConfig(_Section):
    """Settings of the data folder."""

    data_dir: Annotated[Path, BeforeValidator(_path)] = Path("data")
    retention_days: Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)] = 0
    min_free_bytes: Size = 256 * 2**20


class FetchConfig(_Section):
    """Settings of downloads."""

    concurrency: Annotated[int, Field(ge=1, le=4_096)] = 64
    per_host: Annotated[int, Field(ge=1, le=4_096)] = 16
    timeout_seconds: Seconds = 60
    connect_seconds: Seconds = 10
    read_timeout_seconds: Seconds = 15
    max_image_bytes: Annotated[Size, Field(ge=1)] = 64 * 2**20
    attempts: Annotated[int, Field(ge=1, le=100)] = 4
    allowed_networks: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    user_agent: Annotated[str, AfterValidator(_header_value)] = (
        f"imgsvc/{__version__} (image fetcher; set fetch.user_agent to name a contact)"
    )
    proxy: Annotated[str, AfterValidator(_proxy)] = ""


class CompressConfig(_Section):
    """Settings of compression and of the workers."""

    quality: QualitySetting = Quality(50, relative=True)
    format: OutputFormat = OutputFormat.KEEP
    progressive: bool = False
    workers: Annotated[int, Field(ge=0, le=1_024)] = 0
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    timeout_seconds: Seconds = 60
    worker_memory_bytes: Size = 0

    @property
    def settings(self) -> CompressionSettings:
        """The settings of an upload that sets no options."""
        return CompressionSettings(self.quality, self.format, self.progressive)


class WebhookConfig(_Section):
    """Settings of webhooks."""

    secret: Annotated[str, AfterValidator(_webhook_secret)] = ""
    retry_delays_seconds: tuple[Seconds, ...] = (5, 60, 300, 1_800, 7_200, 18_000, 36_000)
    timeout_seconds: Seconds = 15


class LogConfig(_Section):
    """Settings of the log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Config(_Section):
    """Every setting of the service, by section."""

    server: ServerConfig = ServerConfig()
    storage: StorageConfig = StorageConfig()
    fetch: FetchConfig = FetchConfig()
    compress: CompressConfig = CompressConfig()
    webhook: WebhookConfig = WebhookConfig()
    log: LogConfig = LogConfig()
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the configuration, for the caller to log: one for each old name of a key."""
        return self._warnings


def load_config(
    file: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Return the configuration.

    `file` is the path from `--config`. Without it, the file is `IMGSVC_CONFIG`, or `./config.toml` if
    that exists. `flags` maps dotted keys (`"server.port"`) to values. A relative `data_dir` is relative
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
    try:
        data_dir = (base / config.storage.data_dir.expanduser()).resolve()
    except RuntimeError as error:  # an unknown user's home, or a loop of symbolic links
        source = sources.get("storage.data_dir", "configuration")
        raise ConfigError(f"{source}: storage.data_dir: {error}") from None
    return config.model_copy(
        update={"storage": config.storage.model_copy(update={"data_dir": data_dir})}
    )


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

    Lists are JSON. Pydantic converts all other types from `text`. Raise `ConfigError` if a list is
    not valid JSON.
    """
    key = RENAMED_KEYS.get(f"{section}.{key}", f"{section}.{key}").partition(".")[2]
    field = Config.model_fields.get(section)
    model = field.annotation if field is not None else None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return text
    setting = model.model_fields.get(key)
    if setting is None or typing.get_origin(setting.annotation) is not tuple:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise ConfigError(f'{name}: must be a JSON list, such as ["a", "b"]')
    return value


_PLAIN_MESSAGES = {
    "tuple_type": "must be a list",
    "path_type": "must be a path",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
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
        if problem["type"] == "extra_forbidden":
            message = f"unknown key{_suggestion(dotted)}"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = message.replace("Input should be", "must be")
            message = _PLAIN_MESSAGES.get(problem["type"], message)
        lines.append(f"{sources.get(dotted, 'configuration')}: {position}: {message}")
    return "\n".join(lines)
