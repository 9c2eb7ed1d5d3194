"""Every setting: its type, its default and its limits. `config_loader.py` reads the values."""

from __future__ import annotations

import base64
import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self
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
    model_validator,
)

from imgsvc import __version__
from imgsvc.access import (
    UNNAMED_KEYS,
    ApiKey,
    Role,
    check_key,
    check_key_digest,
    check_key_name,
    key_digest,
)
from imgsvc.image_types import (
    MAX_SIDE_SETTING,
    CompressionSettings,
    Effort,
    OutputFormat,
    Quality,
)
from imgsvc.urls import page_origin

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


def _bucket(value: str) -> str:
    name, prefix = r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", r"(/[A-Za-z0-9!_.*'()-]+)*"
    if value and not re.fullmatch(rf"(s3|gs|az)://{name}{prefix}/?", value):
        raise ValueError('must be "" or a URL such as "s3://BUCKET/PREFIX", or with gs:// or az://')
    return value.rstrip("/")


def _origin(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@,*]+", value, re.IGNORECASE):
        raise ValueError('must be an origin such as "https://shop.example"')
    return page_origin(value)


def parse_network(
    entry: str,
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int | None]:
    """Return the network of an entry of `allowed_networks`, and its port or None.

    An entry is an address or a network, with or without a port: `10.1.0.5:9000`, `10.1.0.0/16:443`,
    `[fd00::/8]:443`. Raise `ValueError` if it is neither.
    """
    match = re.fullmatch(r"([0-9.]+(?:/[0-9]+)?|\[[^\[\]]+\]):([0-9]{1,5})", entry)
    network, port = (match[1].strip("[]"), int(match[2])) if match else (entry, None)
    if port is not None and not 1 <= port <= 65_535:
        raise ValueError("the port must be 1 to 65535")
    return ipaddress.ip_network(network), port


def _network(value: str) -> str:
    try:
        parse_network(value)
    except ValueError:
        raise ValueError(
            'must be a network such as "10.1.0.0/16", or with a port, "10.1.0.5:9000"; all bits after '
            "the prefix must be zero"
        ) from None
    return value


def _host(value: str) -> str:
    if not re.fullmatch(r"[^\s/?#@,*:\[\]]+", value):
        raise ValueError('must be a host name without a port, such as "images.example"')
    return urlsplit(page_origin(f"http://{value}")).netloc.removesuffix(".")


def _header_value(value: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]+", value) or value != value.strip():
        raise ValueError("must be one line of printable ASCII")
    return value


_REFUSED_HEADERS = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
"""The headers that `fetch.headers` may not set.

They are secrets that every host would receive, or the service or HTTP itself sets them.
"""


def _request_headers(value: dict[str, str]) -> dict[str, str]:
    """Return the headers with the usual spelling of their names."""
    names = [name.lower() for name in value]
    for name in names:
        if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9a-z]+", name):
            raise ValueError(f"{name!r} is not a header name")
        if name in _REFUSED_HEADERS:
            hint = "; use fetch.user_agent" if name == "user-agent" else ""
            raise ValueError(f"cannot set the header {name}{hint}")
    if len(set(names)) < len(names):
        raise ValueError("must not set a header twice")
    return {name.title(): text for name, text in value.items()}


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
SideSetting = Annotated[int, Field(ge=0, le=MAX_SIDE_SETTING)]
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


class KeyConfig(_Section):
    """An entry of `[[server.keys]]`: an API key or its SHA-256, with a name and a role."""

    name: Annotated[str, AfterValidator(check_key_name)]
    key: Annotated[str, AfterValidator(check_key)] = ""
    sha256: Annotated[str, AfterValidator(check_key_digest)] = ""
    role: Role

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if bool(self.key) == bool(self.sha256):
            raise ValueError("must have either key or sha256 (of the key)")
        return self

    @property
    def api_key(self) -> ApiKey:
        """The key with its digest."""
        digest = bytes.fromhex(self.sha256) if self.sha256 else key_digest(self.key)
        return ApiKey(self.name, self.name, self.role, digest)


class ServerConfig(_Section):
    """Settings of the HTTP server and of uploads."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    public_url: HttpUrl = ""
    api_keys: tuple[Annotated[str, AfterValidator(check_key)], ...] = ()
    keys: tuple[KeyConfig, ...] = ()
    allowed_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    max_upload_bytes: Annotated[Size, Field(ge=1)] = 256 * 2**20
    max_images_per_request: Annotated[int, Field(ge=1)] = 1_000_000
    max_waiting_images: Annotated[int, Field(ge=1)] = 5_000_000
    upload_idle_seconds: Seconds = 30
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    max_uploads: Annotated[int, Field(ge=1, le=100_000)] = 64
    upload_buffer_bytes: Annotated[Size, Field(ge=2**20)] = 64 * 2**20
    spreadsheet_seconds: Seconds = 300
    shutdown_seconds: Seconds = 30

    @field_validator("keys")
    @classmethod
    def _names_are_unambiguous(
        cls, keys: tuple[KeyConfig, ...], info: ValidationInfo
    ) -> tuple[KeyConfig, ...]:
        roles: dict[str, Role] = {}
        owners = {key_digest(key): UNNAMED_KEYS for key in info.data.get("api_keys", ())}
        for api_key in (entry.api_key for entry in keys):
            if roles.setdefault(api_key.name, api_key.role) is not api_key.role:
                raise ValueError(f"the entries named {api_key.name} must have the same role")
            if owners.setdefault(api_key.digest, api_key.owner) != api_key.owner:
                raise ValueError(f"the key of {api_key.name} is already set under another name")
        return keys

    @property
    def all_keys(self) -> tuple[ApiKey, ...]:
        """The accepted keys: those in `api_keys`, which are admin keys, and those in `keys`."""
        unnamed = [
            ApiKey(f"{UNNAMED_KEYS}[{number}]", UNNAMED_KEYS, Role.ADMIN, key_digest(key))
            for number, key in enumerate(self.api_keys)
        ]
        return (*unnamed, *(entry.api_key for entry in self.keys))


class StorageConfig(_Section):
    """Settings of the data folder, and of a bucket that has the outputs instead."""

    data_dir: Annotated[Path, BeforeValidator(_path)] = Path("data")
    retention_days: Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)] = 0
    min_free_bytes: Size = 256 * 2**20
    bucket: Annotated[str, AfterValidator(_bucket)] = ""
    endpoint: HttpUrl = ""
    redirect: bool = False
    public_url: HttpUrl = ""

    @field_validator("endpoint", "redirect", "public_url")
    @classmethod
    def _check_bucket(cls, value: object, info: ValidationInfo) -> object:
        """Raise `ValueError` for a setting that has no effect without a bucket."""
        bucket = info.data.get("bucket")
        if value and bucket == "":
            raise ValueError("needs storage.bucket")
        if value and info.field_name == "endpoint" and bucket and bucket.startswith("gs:"):
            raise ValueError("is only for s3:// and az:// buckets")
        return value


BUCKET_SETTINGS = ("bucket", "endpoint", "redirect", "public_url")
"""The keys of `[storage]` that a command which stores in a folder ignores."""


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
    headers: Annotated[
        dict[str, Annotated[str, AfterValidator(_header_value)]], AfterValidator(_request_headers)
    ] = {}
    proxy: Annotated[str, AfterValidator(_proxy)] = ""


class CompressConfig(_Section):
    """Settings of compression and of the workers."""

    quality: QualitySetting = Quality(50, relative=True)
    format: OutputFormat = OutputFormat.KEEP
    progressive: bool = False
    max_width: SideSetting = 0
    max_height: SideSetting = 0
    effort: Effort = Effort.FAST
    workers: Annotated[int, Field(ge=0, le=1_024)] = 0
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    timeout_seconds: Seconds = 60
    worker_memory_bytes: Size = 0

    @property
    def settings(self) -> CompressionSettings:
        """The settings of an upload that sets no options."""
        return CompressionSettings(
            self.quality,
            self.format,
            self.progressive,
            self.max_width,
            self.max_height,
            self.effort,
        )


class WebhookConfig(_Section):
    """Settings of webhooks."""

    secret: Annotated[str, AfterValidator(_webhook_secret)] = ""
    allowed_networks: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
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

    @property
    def webhook_networks(self) -> tuple[str, ...]:
        """The networks that webhooks may use: their own list, or that of downloads if it is not set."""
        if "allowed_networks" in self.webhook.model_fields_set:
            return self.webhook.allowed_networks
        return self.fetch.allowed_networks

    @property
    def webhooks_use_fetch_networks(self) -> bool:
        """Whether webhooks may use networks that were only allowed for downloads."""
        own = "allowed_networks" in self.webhook.model_fields_set
        return bool(self.fetch.allowed_networks) and not own
