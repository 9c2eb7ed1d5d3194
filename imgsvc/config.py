"""Every setting: its type, its default and its limits. `config_loader.py` reads the values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
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
from imgsvc.config_types import (
    HttpUrl,
    QualitySetting,
    Seconds,
    SideSetting,
    Size,
    check_header_value,
    check_network,
    check_path,
    check_proxy,
    check_webhook_secret,
    parse_bucket,
    parse_host,
    parse_listen,
    parse_origin,
    parse_request_headers,
)
from imgsvc.image_types import (
    CompressionSettings,
    Effort,
    OutputFormat,
    Quality,
)


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
    allowed_hosts: tuple[Annotated[str, AfterValidator(parse_host)], ...] = ()
    cors_origins: tuple[Annotated[str, AfterValidator(parse_origin)], ...] = ()
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

    data_dir: Annotated[Path, BeforeValidator(check_path)] = Path("data")
    retention_days: Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)] = 0
    min_free_bytes: Size = 256 * 2**20
    bucket: Annotated[str, AfterValidator(parse_bucket)] = ""
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
    allowed_networks: tuple[Annotated[str, AfterValidator(check_network)], ...] = ()
    user_agent: Annotated[str, AfterValidator(check_header_value)] = (
        f"imgsvc/{__version__} (image fetcher; set fetch.user_agent to name a contact)"
    )
    headers: Annotated[
        dict[str, Annotated[str, AfterValidator(check_header_value)]],
        AfterValidator(parse_request_headers),
    ] = {}
    proxy: Annotated[str, AfterValidator(check_proxy)] = ""


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


class ClusterConfig(_Section):
    """Settings of a cluster."""

    listen: Annotated[str, AfterValidator(parse_listen)] = ""
    certificates: Annotated[Path, BeforeValidator(check_path)] = Path("cluster")
    local_node: bool = True


class WebhookConfig(_Section):
    """Settings of webhooks."""

    secret: Annotated[str, AfterValidator(check_webhook_secret)] = ""
    allowed_networks: tuple[Annotated[str, AfterValidator(check_network)], ...] = ()
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
    cluster: ClusterConfig = ClusterConfig()
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
