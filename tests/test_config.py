from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.config import Config, load_config, parse_size
from imgsvc.errors import ConfigError
from imgsvc.image_types import OutputFormat, Quality

SHIPPED = Path(__file__).parent.parent / "config.toml"


def load(
    folder: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: Any
) -> Config:
    file = folder / "config.toml"
    file.write_text(text)
    return load_config(
        file,
        flags={key.replace("__", "."): value for key, value in flags.items()},
        environ=environ or {},
    )


def refused(
    folder: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: Any
) -> str:
    with pytest.raises(ConfigError) as error:
        load(folder, text, environ, **flags)
    return str(error.value)


def test_the_shipped_file_holds_every_key_with_its_default() -> None:
    shipped = tomllib.loads(SHIPPED.read_text())
    assert {section: list(keys) for section, keys in shipped.items()} == {
        section: list(getattr(Config(), section).model_dump()) for section in Config.model_fields
    }
    for section, keys in shipped.items():
        for key in keys:
            only = Config.model_validate({section: {key: keys[key]}})
            assert getattr(getattr(only, section), key) == getattr(getattr(Config(), section), key)


def test_the_shipped_file_has_one_line_on_each_key() -> None:
    lines = SHIPPED.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ = ", line):
            assert lines[number - 1].startswith("# "), line
            assert not lines[number - 2].startswith("# "), line


def test_later_sources_win(tmp_path: Path) -> None:
    text = "[server]\nport = 1\nhost = 'file'\npublic_url = 'http://file'"
    environ = {"IMGSVC_SERVER__PORT": "2", "IMGSVC_SERVER__HOST": "environment", "PORT": "7"}
    server = load(tmp_path, text, environ, server__port=3).server
    assert (server.port, server.host, server.public_url) == (3, "environment", "http://file")
    assert server.max_upload_bytes == Config().server.max_upload_bytes


def test_the_file_is_the_named_one_else_the_environments_else_the_folders(
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


def test_a_relative_data_dir_is_relative_to_the_file(
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
    ("text", "environ", "named"),
    [
        ("[server]\nprot = 1", {}, ["config.toml", "server.prot", "no such key", "server.port?"]),
        ("[sever]\nport = 1", {}, ["config.toml", "[sever]", "[server]?"]),
        ("port = 1", {}, ["config.toml", "port stands in no section", "mean server.port?"]),
        ("server = 1", {}, ["config.toml", "mean [server]?"]),
        ("", {"IMGSVC_SERVER__PROT": "1"}, ["IMGSVC_SERVER__PROT", "no such key"]),
        ("", {"IMGSVC_SEVER__PORT": "1"}, ["IMGSVC_SEVER__PORT", "[sever]"]),
        ("[server]\nport = 'x'", {}, ["config.toml", "server.port", "must be a whole number"]),
        ("[server]\nport = 65536", {}, ["config.toml", "server.port"]),
        ("[server]\nport = true", {}, ["config.toml", "server.port", "number"]),
        ("[server.port]\na = 1", {}, ["config.toml", "server.port"]),
        ("", {"IMGSVC_SERVER__PORT": "-1"}, ["IMGSVC_SERVER__PORT", "server.port"]),
        ("[server]\napi_keys = ['ok', 'a b']", {}, ["server.api_keys[1]", "ASCII"]),
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
        ("[compress]\nquality = '0%'", {}, ["compress.quality", "50%"]),
        ("[compress]\nquality = 101", {}, ["compress.quality"]),
        ("[compress]\nformat = 'bmp'", {}, ["compress.format", "webp"]),
        ("[webhook]\nsecret = 'hunter2'", {}, ["webhook.secret", "whsec_"]),
        ("[webhook]\nsecret = 'whsec_?'", {}, ["webhook.secret", "base64"]),
        ("[webhook]\npauses_seconds = [1, 0]", {}, ["webhook.pauses_seconds[1]"]),
        ("[log]\nlevel = 'loud'", {}, ["log.level", "debug"]),
        ("[server\nport = 1", {}, ["config.toml", "TOML"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    tmp_path: Path, text: str, environ: dict[str, str], named: list[str]
) -> None:
    message = refused(tmp_path, text, environ)
    for words in named:
        assert words in message
    assert "hunter2" not in message
    assert "pydantic" not in message


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, "[server]\nport = 'x'", {"IMGSVC_LOG__LEVEL": "loud"})
    assert [line.partition(": ")[2].partition(":")[0] for line in message.splitlines()] == [
        "server.port",
        "log.level",
    ]


def test_a_flag_is_named_as_such(tmp_path: Path) -> None:
    assert refused(tmp_path, server__port="x").startswith("--port: server.port: ")


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: No such file"):
        load_config(tmp_path / "nothing.toml", environ={})
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        load_config(tmp_path, environ={})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match=r"latin\.toml is not TOML"):
        load_config(tmp_path / "latin.toml", environ={})


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes("\ufeff[server]\nport = 5".encode())
    assert load_config(tmp_path / "c.toml", environ={}).server.port == 5


def test_the_environment_reads_every_kind_of_value(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        environ={
            "IMGSVC_SERVER__API_KEYS": '["a", "b"]',
            "IMGSVC_SERVER__MAX_UPLOAD_BYTES": "1.5 kB",
            "IMGSVC_FETCH__ALLOWED_NETWORKS": '["10.0.0.0/8", "fd00::/8"]',
            "IMGSVC_COMPRESS__QUALITY": "70",
            "IMGSVC_COMPRESS__FORMAT": "webp",
            "IMGSVC_COMPRESS__PROGRESSIVE": "true",
            "IMGSVC_WEBHOOK__PAUSES_SECONDS": "[0.5, 2]",
            "IMGSVC_WEBHOOK__SECRET": "whsec_" + base64.b64encode(b"secret").decode(),
            "IMGSVC_API_KEY": "the client's own",
        },
    )
    assert config.server.api_keys == ("a", "b")
    assert config.server.max_upload_bytes == 1500
    assert config.fetch.allowed_networks == ("10.0.0.0/8", "fd00::/8")
    assert config.compress.settings.quality == Quality(70, relative=False)
    assert config.compress.format is OutputFormat.WEBP
    assert config.compress.progressive is True
    assert config.webhook.pauses_seconds == (0.5, 2)


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
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 TiBs", "1e9", "1,5 MiB", "9" * 400, "٣ MiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="256 MiB"):
        parse_size(text)


@given(st.integers(0, 2**40), st.sampled_from(["", "B", "KiB", "MiB"]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    factor = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20}[unit]
    assert parse_size(f"{number} {unit}") == number * factor


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=20))
def test_a_secret_that_is_accepted_can_be_used(text: str) -> None:
    try:
        secret = Config.model_validate({"webhook": {"secret": text}}).webhook.secret
    except ValueError:
        return
    assert not secret or base64.b64decode(secret.removeprefix("whsec_"))


def test_public_url_keeps_its_prefix_and_loses_its_last_slash(tmp_path: Path) -> None:
    config = load(tmp_path, "[server]\npublic_url = 'https://h.example/app/'")
    assert config.server.public_url == "https://h.example/app"
