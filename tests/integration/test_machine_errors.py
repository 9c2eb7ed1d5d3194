"""Without file descriptors the service waits: nothing counts against images, hosts or receivers."""

from __future__ import annotations

import errno
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from imgsvc.config import FetchConfig, WebhookConfig
from imgsvc.machine_errors import MachineError
from imgsvc.models import Delivery
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.local_addresses import LocalAddresses
from imgsvc.network.session import look_up, open_session
from imgsvc.network.webhooks import WebhookSender
from tests.harness.http import open_http
from tests.no_descriptors import no_descriptors

CONFIG = FetchConfig(allowed_networks=("127.0.0.1/32",))
NO_DESCRIPTORS = os.strerror(errno.EMFILE)


@pytest.mark.parametrize("host", ["127.0.0.1:8099", "shop.example", "localhost:8099"])
async def test_fetch_raises_machine_error(host: str) -> None:
    async with open_session(CONFIG, AddressRules(CONFIG.allowed_networks)) as session:
        fetcher = Fetcher(session, CONFIG, ByteBudget(2**20))
        with no_descriptors(), pytest.raises(MachineError, match=NO_DESCRIPTORS):
            async with fetcher.fetch(f"http://{host}/a.jpg"):
                pass


async def test_webhook_raises_machine_error_instead_of_a_failed_attempt() -> None:
    async with open_session(CONFIG, AddressRules(CONFIG.allowed_networks)) as session:
        sender = WebhookSender(session, WebhookConfig())
        delivery = Delivery("msg_1", 1, "request", "http://127.0.0.1:8099/hook", "{}", 0)
        with no_descriptors(), pytest.raises(MachineError, match=NO_DESCRIPTORS):
            await sender.send(delivery)


def test_look_up_does_not_report_a_name_as_dead() -> None:
    with no_descriptors(), pytest.raises(OSError, match=NO_DESCRIPTORS):
        look_up("shop.example", 80)


def test_address_is_not_taken_for_a_foreign_one(tmp_path: Path) -> None:
    local = LocalAddresses(tmp_path / "if_inet6")
    with no_descriptors(), pytest.raises(OSError, match=NO_DESCRIPTORS):
        local.is_own(ip_address("93.184.216.34"))
    (tmp_path / "if_inet6").touch()
    with no_descriptors(), pytest.raises(OSError, match=NO_DESCRIPTORS):
        local.is_on_link(ip_address("2a01::5"))


async def test_api_call_that_needs_a_file_gets_503(tmp_path: Path) -> None:
    async with open_http(tmp_path) as http:
        request_id = await http.upload()
        await http.complete(await http.claim())
        status = await http.get(f"/checkStatus/{request_id}?format=json")
        output = status.json()["products"][0]["images"][0]["outputUrl"].removeprefix(http.url)
        with no_descriptors():
            response = await http.get(output)
        assert response.status == 503
        assert response.headers["Retry-After"] == "5"
        assert "file descriptors" in response.problem()["detail"]
        assert (await http.get(output)).status == 200
