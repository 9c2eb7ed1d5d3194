"""The wheels and the sdist: their metadata, and the demo in an empty environment on each Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.interpreters import find_interpreters
from tests.origin import ROOT

pytestmark = pytest.mark.external

NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "node_modules", ".*_cache", "data", "*.so")


INTERPRETERS = find_interpreters()


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, the wheel of this platform and the pure wheel. Return their folder."""
    source = tmp_path_factory.mktemp("source") / "imgsvc"
    shutil.copytree(ROOT, source, ignore=NOT_COPIED)
    built = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
    run(*command, str(built), str(source))
    run(*command, str(built), "--wheel", str(source), IMGSVC_PURE_WHEEL="1")
    return built


def run(*command: str, **environ: str) -> str:
    """Run a command outside the checkout, and return what it prints. Fail if its exit code is not 0."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        command,
        cwd="/",
        env=inherited | environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def install(python: str, folder: Path, package: Path) -> Path:
    """Install a package into a new environment, and return the path of its command."""
    run(python, "-m", "venv", str(folder))
    options = ["--quiet", "--disable-pip-version-check", "--no-input"]
    run(str(folder / "bin" / "python"), "-m", "pip", "install", *options, str(package))
    return folder / "bin" / "imgsvc"


def wheels(packages: Path) -> tuple[Path, Path]:
    """Return the wheel of this platform, and the pure wheel."""
    pure = next(packages.glob("*-py3-none-any.whl"))
    return next(each for each in packages.glob("*.whl") if each != pure), pure


def test_metadata_is_valid(packages: Path) -> None:
    files = sorted(str(each) for each in packages.iterdir())
    assert len(files) == 3
    run(sys.executable, "-m", "twine", "check", "--strict", *files)


def test_wheels_contain_the_package_alone(packages: Path) -> None:
    native, pure = wheels(packages)
    for wheel in native, pure:
        with ZipFile(wheel) as opened:
            names = opened.namelist()
        assert {name.split("/")[0] for name in names} == {
            "imgsvc",
            next(name.split("/")[0] for name in names if ".dist-info/" in name),
        }
        has_module = any(name.endswith("_requantise.abi3.so") for name in names)
        assert has_module == (wheel == native)


def test_sdist_contains_what_the_tests_and_the_build_need(packages: Path) -> None:
    with tarfile.open(next(packages.glob("*.tar.gz"))) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"run.py", "hatch_build.py", "config.toml", "LICENSE", "tests/conftest.py"} <= names
    assert not any(name.endswith((".so", ".db")) for name in names)


@pytest.mark.parametrize("version", INTERPRETERS)
def test_wheel_runs_the_demo_in_an_empty_environment(
    packages: Path, tmp_path: Path, version: str
) -> None:
    native, _ = wheels(packages)
    command = install(INTERPRETERS[version], tmp_path / "environment", native)
    assert "15 images, 15 completed" in run(str(command), "demo")
    assert "by the native module" in run(str(command), "config", "check")


@pytest.mark.parametrize("kind", ["pure wheel", "sdist"])
def test_other_packages_run_the_demo(packages: Path, tmp_path: Path, kind: str) -> None:
    package = wheels(packages)[1] if kind == "pure wheel" else next(packages.glob("*.tar.gz"))
    command = install(sys.executable, tmp_path / "environment", package)
    assert "15 images, 15 completed" in run(str(command), "demo")
