"""Loading, validation and error messages of the configuration."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.config import Config
from imgsvc.config_loader import RENAMED_KEYS, load_config
from imgsvc.config_types import parse_size
from imgsvc.errors import ConfigError
from imgsvc.image_types import OutputFormat, Quality

SHIPPED = Path(__file__).parents[2] / "config.toml"


def load(
    folder: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: Any
) -> Config:
    """Load a configuration file with `text`. A flag's `__` stands for the dot: `server__port=1`."""
    file = folder / "config.toml"
    file.write_text(text)
    return load_config(
        file,
        flags={key.replace("__", "."): value for key, value in flags.items()},
        environ=environ or {},
    )


def error_message(
    folder: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: Any
) -> str:
    """Return the message with which `load` fails."""
    with pytest.raises(ConfigError) as error:
        load(folder, text, environ, **flags)
    return str(error.value)


def test_shipped_file_has_every_key_with_its_default() -> None:
    shipped = tomllib.loads(re.sub(r"(?m)^#(?=\w+ = )", "", SHIPPED.read_text()))
    assert {section: list(keys) for section, keys in shipped.items()} == {
        section: list(getattr(Config(), section).model_dump()) for section in Config.model_fields
    }
    for section, keys in shipped.items():
        for key in keys:
            config = Config.model_validate({section: {key: keys[key]}})
            assert getattr(getattr(config, section), key) == getattr(
                getattr(Config(), section), key
            )


def test_shipped_file_sets_nothing_so_that_a_copy_keeps_no_default() -> None:
    assert tomllib.loads(SHIPPED.read_text()) == {section: {} for section in Config.model_fields}


def test_shipped_file_has_one_comment_line_for_each_key() -> None:
    lines = SHIPPED.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#\w+ = ", line):
            assert lines[number - 1].startswith("# "), line
            assert not lines[number - 2].startswith("# "), line


def test_flags_override_environment_and_environment_overrides_file(tmp_path: Path) -> None:
    text = "[server]\nport = 1\nhost = 'file'\npublic_url = 'http://file'"
    environ = {"IMGSVC_SERVER__PORT": "2", "IMGSVC_SERVER__HOST": "environment", "PORT": "7"}
    server = load(tmp_path, text, environ, server__port=3).server
    assert (server.port, server.host, server.public_url) == (3, "environment", "http://file")
    assert server.max_upload_bytes == Config().server.max_upload_bytes


def test_file_is_the_argument_else_from_environment_else_in_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(environ={}).server.port == 8080
    for number, name in enumerate(["config.toml", "environment.toml", "named.toml"], 1):
        (tmp_path / name).write_text(f"[server]\nport = {number}")
    environ = {"IMGSVC_CONFIG": "environment.toml"}
    assert load_config(environ={}).server.port == 1
    assert load_config(environ={"IMGSVC_CONFIG": ""}).server.port == 1
    assert load_config(environ=environ).server.port == 2
    assert load_config(Path("named.toml"), environ=environ).server.port == 3


def test_relative_data_dir_is_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_config(environ={}).storage.data_dir == elsewhere / "data"
    assert load(tmp_path).storage.data_dir == tmp_path / "data"
    assert load(tmp_path, "[storage]\ndata_dir = 'x/y'").storage.data_dir == tmp_path / "x/y"
    assert load(tmp_path, "[storage]\ndata_dir = '/srv'").storage.data_dir == Path("/srv")
    environ = {"IMGSVC_STORAGE__DATA_DIR": "z"}
    assert load(tmp_path, environ=environ).storage.data_dir == tmp_path / "z"
    monkeypatch.setenv("HOME", str(elsewhere))
    assert load(tmp_path, "[storage]\ndata_dir = '~/d'").storage.data_dir == elsewhere / "d"


@pytest.mark.parametrize(
    ("text", "environ", "parts"),
    [
        ("[server]\nprot = 1", {}, ["config.toml", "server.prot", "unknown key", "server.port?"]),
        ("[sever]\nport = 1", {}, ["config.toml", "unknown section [sever]", "[server]?"]),
        ("port = 1", {}, ["config.toml", "port must be inside a section", "mean server.port?"]),
        ("server = 1", {}, ["config.toml", "mean [server]?"]),
        ("", {"IMGSVC_SERVER__PROT": "1"}, ["IMGSVC_SERVER__PROT", "unknown key"]),
        ("", {"IMGSVC_SEVER__PORT": "1"}, ["IMGSVC_SEVER__PORT", "[sever]"]),
        ("[server]\nport = 'x'", {}, ["config.toml", "server.port", "must be a whole number"]),
        ("[server]\nport = 65536", {}, ["config.toml", "server.port"]),
        ("[server]\nport = true", {}, ["config.toml", "server.port", "number"]),
        ("[server.port]\na = 1", {}, ["config.toml", "server.port"]),
        ("", {"IMGSVC_SERVER__PORT": "-1"}, ["IMGSVC_SERVER__PORT", "server.port"]),
        ("[server]\napi_keys = ['0123456789abcdef', 'a b']", {}, ["server.api_keys[1]", "ASCII"]),
        ("[server]\napi_keys = ['hunter2']", {}, ["server.api_keys[0]", "16 characters"]),
        ("", {"IMGSVC_SERVER__API_KEYS": "a,b"}, ["IMGSVC_SERVER__API_KEYS", "JSON"]),
        ("", {"IMGSVC_SERVER__API_KEYS": "{}"}, ["IMGSVC_SERVER__API_KEYS", "JSON"]),
        ("[server]\npublic_url = 'shop.example'", {}, ["server.public_url", "http"]),
        ("[server]\npublic_url = 'https://u:p@h'", {}, ["server.public_url", "user"]),
        ("[server]\npublic_url = 'https://h:99999'", {}, ["server.public_url", "port"]),
        ("[server]\ncors_origins = ['https://h:x']", {}, ["server.cors_origins[0]", "port"]),
        ("[server]\napi_keys = 'key'", {}, ["server.api_keys", "must be a list"]),
        ("[fetch]\nproxy = 'socks5://u:p@h'", {}, ["fetch.proxy", "http://"]),
        ("[fetch]\nproxy = 'http://u:p@h:0x'", {}, ["fetch.proxy", "port"]),
        ("[storage]\ndata_dir = ''", {}, ["storage.data_dir", "folder"]),
        ("", {"IMGSVC_STORAGE__DATA_DIR": ""}, ["IMGSVC_STORAGE__DATA_DIR", "folder"]),
        ("[server]\ncors_origins = ['*']", {}, ["server.cors_origins[0]", "origin"]),
        ("[server]\nmax_upload_bytes = '1 MiBB'", {}, ["server.max_upload_bytes", "256 MiB"]),
        ("[server]\nmax_upload_bytes = 0", {}, ["server.max_upload_bytes"]),
        ("[server]\nshutdown_seconds = inf", {}, ["server.shutdown_seconds"]),
        ('[storage]\ndata_dir = "a\\u0000b"', {}, ["storage.data_dir", "NUL"]),
        (
            "[storage]\ndata_dir = '~no.such.user/d'",
            {},
            ["config.toml", "storage.data_dir", "home"],
        ),
        ("[storage]\nretention_days = nan", {}, ["storage.retention_days"]),
        (
            "[fetch]\nallowed_networks = ['10.0.0.1/8']",
            {},
            ["fetch.allowed_networks[0]", "10.1.0.0/16"],
        ),
        ('[fetch]\nuser_agent = "a\\r\\nX: b"', {}, ["fetch.user_agent", "one line"]),
        ("[fetch]\nheaders = { Cookie = 'a=b' }", {}, ["fetch.headers", "cookie"]),
        ("[fetch]\nheaders = { authorization = 'x' }", {}, ["fetch.headers", "authorization"]),
        ("[fetch]\nheaders = { User-Agent = 'x' }", {}, ["fetch.headers", "fetch.user_agent"]),
        ("[fetch]\nheaders = { 'a b' = 'x' }", {}, ["fetch.headers", "header name"]),
        ("[fetch]\nheaders = { a = 'x', A = 'y' }", {}, ["fetch.headers", "twice"]),
        ('[fetch]\nheaders = { a = "x\\ny" }', {}, ["fetch.headers", "one line"]),
        ("", {"IMGSVC_FETCH__HEADERS": "a: b"}, ["IMGSVC_FETCH__HEADERS", "JSON"]),
        ("[compress]\nquality = '0%'", {}, ["compress.quality", "50%"]),
        ("[compress]\nquality = 101", {}, ["compress.quality"]),
        ("[compress]\nformat = 'bmp'", {}, ["compress.format", "webp"]),
        ("[compress]\nmax_width = -1", {}, ["compress.max_width", "0"]),
        ("[compress]\nmax_height = 65_536", {}, ["compress.max_height", "65535"]),
        ("[compress]\neffort = 'fastest'", {}, ["compress.effort", "small"]),
        ("[webhook]\nsecret = 'hunter2'", {}, ["webhook.secret", "whsec_"]),
        ("[webhook]\nsecret = 'whsec_?'", {}, ["webhook.secret", "base64"]),
        ("[webhook]\nretry_delays_seconds = [1, 0]", {}, ["webhook.retry_delays_seconds[1]"]),
        ("[log]\nlevel = 'loud'", {}, ["log.level", "debug"]),
        ("[server\nport = 1", {}, ["config.toml", "TOML"]),
    ],
)
def test_invalid_value_is_rejected_with_source_and_key(
    tmp_path: Path, text: str, environ: dict[str, str], parts: list[str]
) -> None:
    message = error_message(tmp_path, text, environ)
    for part in parts:
        assert part in message
    assert "hunter2" not in message
    assert "pydantic" not in message


def test_all_invalid_values_are_reported_together(tmp_path: Path) -> None:
    message = error_message(tmp_path, "[server]\nport = 'x'", {"IMGSVC_LOG__LEVEL": "loud"})
    assert [line.partition(": ")[2].partition(":")[0] for line in message.splitlines()] == [
        "server.port",
        "log.level",
    ]


def test_invalid_flag_is_reported_by_its_flag(tmp_path: Path) -> None:
    assert error_message(tmp_path, server__port="x").startswith("--port: server.port: ")


def test_missing_or_unreadable_file_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: No such file"):
        load_config(tmp_path / "nothing.toml", environ={})
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        load_config(tmp_path, environ={})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match=r"latin\.toml is not valid TOML"):
        load_config(tmp_path / "latin.toml", environ={})


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes("\ufeff[server]\nport = 5".encode())
    assert load_config(tmp_path / "c.toml", environ={}).server.port == 5


def test_environment_accepts_values_of_every_type(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        environ={
            "IMGSVC_SERVER__API_KEYS": '["0123456789abcdef", "fedcba9876543210"]',
            "IMGSVC_SERVER__MAX_UPLOAD_BYTES": "1.5 kB",
            "IMGSVC_FETCH__ALLOWED_NETWORKS": '["10.0.0.0/8", "fd00::/8"]',
            "IMGSVC_COMPRESS__QUALITY": "70",
            "IMGSVC_COMPRESS__FORMAT": "webp",
            "IMGSVC_COMPRESS__PROGRESSIVE": "true",
            "IMGSVC_COMPRESS__MAX_WIDTH": "1600",
            "IMGSVC_COMPRESS__EFFORT": "small",
            "IMGSVC_WEBHOOK__RETRY_DELAYS_SECONDS": "[0.5, 2]",
            "IMGSVC_WEBHOOK__SECRET": "whsec_" + base64.b64encode(b"secret").decode(),
            "IMGSVC_API_KEY": "a key for the command-line client",
        },
    )
    assert config.server.api_keys == ("0123456789abcdef", "fedcba9876543210")
    assert config.server.max_upload_bytes == 1500
    assert config.fetch.allowed_networks == ("10.0.0.0/8", "fd00::/8")
    assert config.compress.settings.quality == Quality(70, relative=False)
    assert config.compress.format is OutputFormat("webp")
    assert config.compress.progressive is True
    assert str(config.compress.settings) == "70 webp progressive max_width=1600 effort=small"
    assert config.webhook.retry_delays_seconds == (0.5, 2)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("17 B", 17),
        ("1 kB", 1000),
        ("1 KiB", 1024),
        (" 2mib ", 2 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("3 GB", 3 * 10**9),
    ],
)
def test_parse_size_reads_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1 TiBs", "1e9", "1,5 MiB", "1.2.3 MB", "9" * 400, "٣ MiB"]
)
def test_parse_size_raises_if_text_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="256 MiB"):
        parse_size(text)


@given(st.integers(0, 2**40), st.sampled_from(["", "B", "KiB", "MiB"]))
def test_parse_size_multiplies_number_by_unit(number: int, unit: str) -> None:
    factor = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20}[unit]
    assert parse_size(f"{number} {unit}") == number * factor


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=20))
def test_accepted_webhook_secret_is_valid_base64(text: str) -> None:
    try:
        secret = Config.model_validate({"webhook": {"secret": text}}).webhook.secret
    except ValueError:
        return
    assert not secret or base64.b64decode(secret.removeprefix("whsec_"))


def test_public_url_keeps_path_prefix_without_trailing_slash(tmp_path: Path) -> None:
    config = load(tmp_path, "[server]\npublic_url = 'https://h.example/app/'")
    assert config.server.public_url == "https://h.example/app"


# --- renamed keys ----------------------------------------------------------------------------------

OLD_VALUES = {
    "fetch.total_seconds": 7,
    "fetch.idle_seconds": 8,
    "compress.seconds": 9,
    "webhook.pauses_seconds": [1, 2],
}
"""A value for each renamed key, by its old name."""


def sources_with(source: str, key: str, value: object) -> dict[str, Any]:
    """Return arguments for `load` that set `key` in the file, in the environment or by a flag."""
    section, _, name = key.partition(".")
    if source == "file":
        return {"text": f"[{section}]\n{name} = {json.dumps(value)}"}
    if source == "environment":
        return {"environ": {f"IMGSVC_{section}__{name}".upper(): json.dumps(value)}}
    return {f"{section}__{name}": value}


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of both, with a file that has the lines of both."""
    both = first | second
    if "text" in first and "text" in second:
        both["text"] = first["text"] + "\n" + second["text"].partition("\n")[2]
    if "environ" in first and "environ" in second:
        both["environ"] = first["environ"] | second["environ"]
    return both


def setting(config: Config, key: str) -> object:
    section, _, name = key.partition(".")
    value = getattr(getattr(config, section), name)
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("source", ["file", "environment", "flag"])
@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_old_name_of_renamed_key_works_with_a_warning(
    tmp_path: Path, old: str, source: str
) -> None:
    new = RENAMED_KEYS[old]
    config = load(tmp_path, **sources_with(source, old, OLD_VALUES[old]))
    assert setting(config, new) == OLD_VALUES[old]
    assert config.warnings == (f"{old} is now {new}; the old name still works",)


@pytest.mark.parametrize("source", ["file", "environment", "flag"])
@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_new_name_of_renamed_key_gives_no_warning(tmp_path: Path, old: str, source: str) -> None:
    new = RENAMED_KEYS[old]
    config = load(tmp_path, **sources_with(source, new, OLD_VALUES[old]))
    assert setting(config, new) == OLD_VALUES[old]
    assert config.warnings == ()


@pytest.mark.parametrize("new_source", ["file", "environment", "flag"])
@pytest.mark.parametrize("old_source", ["file", "environment", "flag"])
@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_both_names_of_renamed_key_are_rejected_even_if_values_are_equal(
    tmp_path: Path, old: str, old_source: str, new_source: str
) -> None:
    new = RENAMED_KEYS[old]
    arguments = merged(
        sources_with(old_source, old, OLD_VALUES[old]),
        sources_with(new_source, new, OLD_VALUES[old]),
    )
    message = error_message(tmp_path, **arguments)
    assert f"{old} is the old name of {new}, which is set by " in message
    assert message.count("\n") == 0


def test_old_name_in_environment_overrides_old_name_in_file(tmp_path: Path) -> None:
    environ = {"IMGSVC_FETCH__TOTAL_SECONDS": "3"}
    config = load(tmp_path, "[fetch]\ntotal_seconds = 2", environ)
    assert config.fetch.timeout_seconds == 3
    assert len(config.warnings) == 1


def test_all_keys_set_under_both_names_are_reported_together(tmp_path: Path) -> None:
    text = "[fetch]\ntotal_seconds = 1\ntimeout_seconds = 1\n[compress]\nseconds = 1"
    message = error_message(tmp_path, text, {"IMGSVC_COMPRESS__TIMEOUT_SECONDS": "1"})
    first, second = message.splitlines()
    file = tmp_path / "config.toml"
    assert first == (
        f"{file}: fetch.total_seconds is the old name of fetch.timeout_seconds, which is set by "
        f"{file}. Remove fetch.total_seconds."
    )
    assert second.startswith(f"{file}: compress.seconds is the old name of ")
    assert "IMGSVC_COMPRESS__TIMEOUT_SECONDS" in second


@pytest.mark.parametrize(
    ("text", "environ", "parts"),
    [
        ("[fetch]\ntotal_seconds = 0", {}, ["config.toml: fetch.total_seconds: "]),
        ("[webhook]\npauses_seconds = [1, 0]", {}, ["config.toml: webhook.pauses_seconds[1]: "]),
        ("", {"IMGSVC_COMPRESS__SECONDS": "x"}, ["IMGSVC_COMPRESS__SECONDS: compress.seconds: "]),
        ("", {"IMGSVC_WEBHOOK__PAUSES_SECONDS": "1,2"}, ["IMGSVC_WEBHOOK__PAUSES_SECONDS", "JSON"]),
    ],
)
def test_invalid_value_of_renamed_key_is_reported_under_the_name_that_was_used(
    tmp_path: Path, text: str, environ: dict[str, str], parts: list[str]
) -> None:
    message = error_message(tmp_path, text, environ)
    for part in parts:
        assert part in message


def test_webhooks_use_networks_of_downloads_unless_they_have_their_own(tmp_path: Path) -> None:
    text = "[fetch]\nallowed_networks = ['10.0.0.0/8', '10.1.0.5:9000', '[fd00::/8]:443']\n"
    config = load(tmp_path, text)
    assert config.webhook_networks == config.fetch.allowed_networks
    assert config.webhooks_use_fetch_networks
    for networks in ("[]", "['10.2.0.1:8000']"):
        config = load(tmp_path, f"{text}[webhook]\nallowed_networks = {networks}")
        assert config.webhook_networks == config.webhook.allowed_networks
        assert not config.webhooks_use_fetch_networks
    assert not load(tmp_path).webhooks_use_fetch_networks


@pytest.mark.parametrize(
    "entry", ["10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:", "[fd00::1]", "h:80"]
)
def test_invalid_network_entry_is_rejected(tmp_path: Path, entry: str) -> None:
    message = error_message(tmp_path, f"[webhook]\nallowed_networks = ['{entry}']")
    assert "webhook.allowed_networks[0]" in message
    assert "10.1.0.5:9000" in message


@pytest.mark.parametrize(
    "bucket", ["", "s3://shop-images", "s3://shop.images/a/b_c/", "gs://images/x", "az://images"]
)
def test_bucket_accepts_urls_of_buckets(tmp_path: Path, bucket: str) -> None:
    storage = load(tmp_path, f'[storage]\nbucket = "{bucket}"').storage
    assert storage.bucket == bucket.rstrip("/")


@pytest.mark.parametrize(
    "bucket",
    [
        "shop-images",
        "s3:",
        "s3://",
        "s3://a",
        "http://images",
        "s3://images/x y",
        "s3://images?x=1",
        "s3://images//x",
        "s3://user:key@images",
        "file:///images",
        "memory:///",
    ],
)
def test_bucket_rejects_anything_else(tmp_path: Path, bucket: str) -> None:
    message = error_message(tmp_path, f'[storage]\nbucket = "{bucket}"')
    assert "storage.bucket: must be" in message


@pytest.mark.parametrize(
    "setting", ['endpoint = "http://a"', "redirect = true", 'public_url = "https://cdn.example"']
)
def test_settings_of_a_bucket_need_one(tmp_path: Path, setting: str) -> None:
    message = error_message(tmp_path, f"[storage]\n{setting}")
    assert f"storage.{setting.split(maxsplit=1)[0]}: needs storage.bucket" in message
    load(tmp_path, f'[storage]\nbucket = "s3://images"\n{setting}')


def test_endpoint_is_refused_for_google(tmp_path: Path) -> None:
    text = '[storage]\nbucket = "gs://images"\nendpoint = "https://a.example"'
    assert "only for s3:// and az://" in error_message(tmp_path, text)
