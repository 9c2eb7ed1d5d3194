"""The container image: buildah builds the Dockerfile without a daemon, and runs it.

The base image cannot be downloaded everywhere. A Debian made by debootstrap takes its name instead.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.origin import ROOT

pytestmark = [pytest.mark.external, pytest.mark.timeout(900)]

BASE = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1].partition(
    "@"
)[0]
BASE_PACKAGES = "ca-certificates,python3,python3-dev,python3-venv"
MAX_ADDED_BYTES = 170_000_000
"""The image is smaller than 300 MB with the base image of Docker, which has 125 MB."""


class Buildah:
    """Runs buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._command = [
            "buildah",
            "--root",
            str(folder / "storage"),
            "--runroot",
            str(folder / "run"),
        ]
        self._environ = os.environ | {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}

    def __call__(self, *arguments: str) -> str:
        """Run a command of buildah, and return what it prints. Fail if its exit code is not 0."""
        return run(*self._command, *arguments, environ=self._environ)

    def size(self, image: str) -> int:
        """Return the size of an image in bytes."""
        images = json.loads(self("images", "--json"))
        sizes = [each["size"] for each in images if any(image in name for name in each["names"])]
        number, unit = sizes[0].split()
        return int(float(number) * {"MB": 1e6, "GB": 1e9}[unit])


def run(*command: str, environ: dict[str, str] | None = None) -> str:
    """Run a command, and return what it prints. Fail if its exit code is not 0."""
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """Build the image `imgsvc` on a base made by debootstrap."""
    folder = tmp_path_factory.mktemp("container")
    buildah = Buildah(folder)
    base = folder / "base"
    run("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "stable", str(base))
    (base / "usr" / "bin" / "python").symlink_to("python3")
    # As in images of Docker: apt keeps no packages and no lists in a binary form.
    (base / "etc" / "apt" / "apt.conf.d" / "docker-clean").write_text(
        'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n'
        'APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };\n'
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };\n'
    )
    archive = folder / "base.tar"
    run("tar", "-C", str(base), "-cf", str(archive), ".")
    working = buildah("from", "scratch").strip()
    buildah("add", "--quiet", working, str(archive), "/")
    archive.unlink()
    buildah("commit", "--quiet", "--rm", working, BASE)
    # The settings of this machine for package indexes, which a container does not inherit.
    settings = [path for path in ("/etc/pip.conf", "/etc/ssl/certs") if Path(path).exists()]
    volumes = [f"--volume={path}:{path}:ro" for path in settings]
    buildah("build", "--pull-never", *volumes, "--tag", "imgsvc", ".")
    yield buildah
    buildah("rm", "--all")
    buildah("rmi", "--all", "--force")


@pytest.fixture
def container(buildah: Buildah) -> str:
    """Create a container of the image, and return its name."""
    return buildah("from", "--pull-never", "imgsvc").strip()


def test_image_is_small(buildah: Buildah) -> None:
    assert buildah.size("/imgsvc:") - buildah.size(BASE) < MAX_ADDED_BYTES


def test_container_runs_the_demo_as_a_user_without_rights(buildah: Buildah, container: str) -> None:
    script = "id -u; imgsvc demo; imgsvc config check 2>&1; touch /opt/imgsvc/x || echo read-only"
    output = buildah("run", container, "--", "sh", "-c", script)
    assert output.startswith("10001\n")
    assert "15 images, 15 completed" in output
    assert "by the native module" in output
    assert output.endswith("read-only\n")


def test_container_serves_and_stops(buildah: Buildah, container: str) -> None:
    """The entry point starts the service, the health check finds it, and SIGTERM ends it with 0."""
    config = json.loads(buildah("inspect", "--type", "image", "imgsvc"))["OCIv1"]["config"]
    entry = " ".join([*config["Entrypoint"], *config["Cmd"]])
    dockerfile = (ROOT / "Dockerfile").read_text()
    check = json.loads(re.findall(r"HEALTHCHECK[^\[]*(\[.*\])", dockerfile)[0])
    (script := buildah.folder / "health.py").write_text(check[2])
    buildah("copy", container, str(script), "/tmp/health.py")
    steps = (
        "export IMGSVC_SERVER__PORT=18089",
        f"{entry} & pid=$!",
        "for i in $(seq 300); do python /tmp/health.py 2>/dev/null && break; sleep 0.1; done",
        "python /tmp/health.py && kill $pid && wait $pid && echo stopped",
    )
    assert "stopped" in buildah("run", container, "--", "sh", "-c", "; ".join(steps))
