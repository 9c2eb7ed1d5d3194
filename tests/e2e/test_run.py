"""run.py on a copy of the project, in which a small stub replaces imgsvc."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.origin import ROOT
from tests.waiting import block_until

BASE_PYTHON = str(getattr(sys, "_base_executable", sys.executable))
STUB = """\
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(json.dumps([os.getpid(), sys.executable, sys.argv[1:]]), flush=True)
if sys.argv[1:] == ["serve", "--wait"]:
    while True:
        time.sleep(0.1)
sys.exit(3 if "fail" in sys.argv else 0)
"""
"""The stub's `__main__.py`. It prints how it was started, and exits with code 3 if told to fail."""


class Project:
    """A copy of the files that run.py needs, with a lock file that installs nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venv = folder / ".venv"
        self.stamp = self.venv / "imgsvc.json"
        shutil.copy(ROOT / "run.py", folder)
        (folder / "pyproject.toml").write_text(
            '[project]\ndependencies = ["no-such-package-for-imgsvc>=1"]\n'
            "[project.optional-dependencies]\ns3 = []\ncluster = []\n[dependency-groups]\ndev = []\n"
        )
        self.lock("# empty\n")
        (folder / "imgsvc").mkdir()
        (folder / "imgsvc" / "__main__.py").write_text(STUB)

    def lock(self, text: str) -> None:
        """Write the lock files."""
        (self.folder / "requirements.lock").write_text(text)
        (self.folder / "requirements-s3.lock").write_text(text + "# s3\n")
        (self.folder / "requirements-cluster.lock").write_text(text + "# cluster\n")
        (self.folder / "requirements-dev.lock").write_text(text + "# dev\n")

    def start(self, *arguments: str, python: str = BASE_PYTHON, **environ: str) -> RunningCommand:
        return RunningCommand(self, [python, str(self.folder / "run.py"), *arguments], environ)

    def run(self, *arguments: str, python: str = BASE_PYTHON, **environ: str) -> RunningCommand:
        return self.start(*arguments, python=python, **environ).wait()


class RunningCommand:
    """A started run.py: `out` and `err` are what it printed, after `wait`."""

    def __init__(self, project: Project, command: list[str], environ: dict[str, str]) -> None:
        other_folder = project.folder.parent
        self.process = subprocess.Popen(
            command,
            cwd=other_folder,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.out = self.err = ""

    def wait(self) -> RunningCommand:
        self.out, self.err = self.process.communicate(timeout=90)
        return self

    @property
    def code(self) -> int:
        return self.process.returncode

    @property
    def imgsvc_process(self) -> tuple[int, str, list[str]]:
        """The process id, the interpreter and the arguments of imgsvc."""
        pid, executable, arguments = json.loads(self.out)
        return pid, executable, arguments


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


def test_first_start_creates_environment_and_execs_the_service(project: Project) -> None:
    first = project.run("serve", "--port", "9000")
    assert first.code == 0, first.err
    assert "creating an environment" in first.err
    assert first.imgsvc_process == (
        first.process.pid,
        str(project.venv / "bin" / "python"),
        ["serve", "--port", "9000"],
    )
    created = project.stamp.stat().st_mtime_ns
    second = project.run("fail", "x y")
    assert (second.code, second.err) == (3, "")
    assert second.imgsvc_process[2] == ["fail", "x y"]
    assert project.stamp.stat().st_mtime_ns == created
    assert project.run().imgsvc_process[2] == ["serve"]
    assert project.run("--port", "1").imgsvc_process[2] == ["serve", "--port", "1"]
    assert project.run("--version").imgsvc_process[2] == ["--version"]

    service = project.start("--wait")
    assert service.process.stdout is not None
    service.process.stdout.readline()
    service.process.terminate()
    assert service.wait().code == 7

    project.lock("# another\n")
    assert "creating an environment" in project.run().err
    assert "requirements-dev.lock" in project.run("test", "--version").err
    assert project.run().err == ""


def test_bucket_in_environment_or_configuration_installs_its_packages(project: Project) -> None:
    assert "requirements.lock" in project.run("serve").err
    assert project.run(IMGSVC_STORAGE__BUCKET="").err == ""
    file = project.folder / "other.toml"
    file.write_text('[storage]\nbucket = "s3://images"\n')
    with_bucket = project.run("serve", f"--config={file}")
    assert with_bucket.code == 0
    assert "requirements-s3.lock" in with_bucket.err
    assert "creating an environment" not in with_bucket.err
    assert project.run(IMGSVC_STORAGE__BUCKET="gs://images").err == ""
    assert project.run("serve").err == ""
    project.lock("# another\n")
    again = project.run(IMGSVC_CONFIG=str(file)).err
    assert "creating an environment" in again
    assert "requirements-s3.lock" in again


def test_commands_and_settings_of_a_cluster_install_its_packages(project: Project) -> None:
    assert "requirements-cluster.lock" in project.run("node", "tls://coordinator:8786").err
    assert project.run(IMGSVC_CLUSTER__LISTEN="tls://0.0.0.0:8786").err == ""


def test_interrupted_setup_is_repeated_by_the_next_start(project: Project) -> None:
    for number in (signal.SIGKILL, signal.SIGINT):
        setup = project.start()
        block_until((project.venv / "pyvenv.cfg").exists, what="the setup to start")
        os.killpg(setup.process.pid, number)
        assert setup.wait().code == (130 if number is signal.SIGINT else -9)
        assert json.loads(project.stamp.read_text()) == {}
        repaired = project.run()
        assert "creating an environment" in repaired.err
        assert repaired.code == 0
        shutil.rmtree(project.venv)


def test_failed_installation_is_reported_and_repeated_by_the_next_start(project: Project) -> None:
    project.lock("no-such-package-for-imgsvc==1 --hash=sha256:" + "0" * 64 + "\n")
    failed = project.run(PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert failed.code == 1
    assert "pip could not install" in failed.err
    assert "no-such-package-for-imgsvc" in failed.err
    assert "Traceback" not in failed.err
    project.lock("# empty\n")
    assert project.run().code == 0


def test_two_concurrent_first_starts_create_one_environment(project: Project) -> None:
    starts = [project.start(), project.start()]
    messages = [start.wait().err for start in starts]
    assert [start.code for start in starts] == [0, 0]
    assert sum("creating an environment" in each for each in messages) == 1
    assert sum("waiting for another" in each for each in messages) <= 1


def test_environment_of_the_user_is_not_changed(project: Project) -> None:
    project.venv.mkdir()
    (project.venv / "theirs").write_text("x")
    rejected = project.run()
    assert rejected.code == 1
    assert "run.py did not create it" in rejected.err
    assert [each.name for each in project.venv.iterdir()] == ["theirs"]


def test_nothing_is_installed_if_the_python_has_the_dependencies(project: Project) -> None:
    shutil.copy(ROOT / "pyproject.toml", project.folder)
    command = project.run("a", python=sys.executable)
    assert command.code == 0, command.err
    assert command.imgsvc_process == (command.process.pid, sys.executable, ["a"])
    assert command.err == ""
    assert not project.venv.exists()


def test_python_without_venv_gets_installation_advice(project: Project, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "sitecustomize.py").write_text(
        "import sys\nsys.modules['ensurepip'] = None"
    )
    rejected = project.run(PYTHONPATH=str(tmp_path / "packages"))
    assert rejected.code == 1
    assert re.search(r"apt install python3\.\d+-venv", rejected.err)
    assert not project.venv.exists()


def test_help_creates_no_environment(project: Project) -> None:
    command = project.run("--help")
    assert command.code == 0
    assert "run.py test" in command.out
    assert not project.venv.exists()


def test_old_python_can_parse_run_py_and_reach_its_version_check() -> None:
    tree = ast.parse((ROOT / "run.py").read_text(), feature_version=(3, 6))
    before = [type(each).__name__ for each in tree.body[:4]]
    assert before == ["Expr", "Import", "If", "If"]
    assert ast.unparse(tree.body[1]) == "import sys"
    assert "(3, 11)" in ast.unparse(tree.body[3])


# --- the lock files ------------------------------------------------------------------------------


def pins(name: str) -> dict[str, set[str]]:
    """Return the versions that a lock file pins, by package.

    Fail if a pin has no hash, or if a line is not a pin.
    """
    found: dict[str, set[str]] = {}
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    for entry in text.replace("\\\n", "").splitlines():
        match = re.fullmatch(
            r"([a-z0-9-]+)==(\S+)( ;[^-]*?)?((?:\s+--hash=sha256:[0-9a-f]{64})+)", entry
        )
        assert match is not None, entry
        found.setdefault(match[1], set()).add(match[2])
    return found


def test_lock_files_contain_no_index_url() -> None:
    for kind in ("", "-s3", "-cluster", "-dev"):
        text = (ROOT / f"requirements{kind}.lock").read_text()
        assert "://" not in text
        assert "index" not in text


def test_lock_files_agree_with_each_other_and_with_pyproject() -> None:
    runtime, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    s3, cluster = pins("requirements-s3.lock"), pins("requirements-cluster.lock")
    assert {name: dev.get(name) for name in cluster} == cluster
    assert {name: cluster.get(name) for name in s3} == s3
    assert {name: s3.get(name) for name in runtime} == runtime
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for requirements, lock in (
        (project["project"]["dependencies"], runtime),
        (project["project"]["optional-dependencies"]["s3"], s3),
        (project["project"]["optional-dependencies"]["cluster"], cluster),
        (project["dependency-groups"]["dev"], dev),
    ):
        for requirement in requirements:
            name, _, minimum = requirement.partition(">=")
            for version in lock[name]:
                assert [int(n) for n in re.findall(r"\d+", version)] >= [
                    int(n) for n in minimum.split(".")
                ]


# --- tests that need a package index -------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the files that git tracks."""
    folder = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return folder


@pytest.mark.parametrize("suite", ["unit", "integration"])
def test_test_command_runs_only_the_named_suite(suite: str) -> None:
    command = [sys.executable, str(ROOT / "run.py"), "test", suite, "--collect-only", "-qq"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    files = re.findall(r"^(tests/\S+\.py)", result.stdout, re.MULTILINE)
    assert files, result.stdout + result.stderr
    assert [file for file in files if not file.startswith(f"tests/{suite}/")] == []


def test_coverage_report_counts_processes_that_tests_start(tmp_path: Path) -> None:
    test = tmp_path / "test_version.py"
    test.write_text(
        "import pathlib, subprocess, sys, tempfile\n\n\n"
        "def test_version():\n"
        "    subprocess.run([sys.executable, '-m', 'imgsvc', '--version'], check=True)\n"
        "    (folder,) = pathlib.Path(tempfile.gettempdir()).glob('imgsvc-coverage-*')\n"
        "    (folder / 'data.killed.pid1.X').touch()  # left by a process that was killed\n"
    )
    data = tmp_path / "data"
    data.mkdir()
    environ = {k: v for k, v in os.environ.items() if k != "COVERAGE_PROCESS_CONFIG"}
    result = subprocess.run(
        [
            *(
                sys.executable,
                "-P",
                "-m",
                "pytest",
                "-W",
                "error::coverage.exceptions.CoverageWarning",
            ),
            *("-p", "tests.coverage_report", str(test)),
        ],
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(data)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    share = re.search(r"= coverage of imgsvc: (\d+)\.\d% of \d+ lines =", result.stdout)
    assert share, result.stdout
    assert int(share[1]) > 10
    assert len(re.findall(r"^ +\d+\.\d%  ", result.stdout, re.MULTILINE)) == 10
    assert list(data.iterdir()) == []


@pytest.mark.external
def test_clean_checkout_starts(checkout: Path) -> None:
    command = [BASE_PYTHON, str(checkout / "run.py"), "--version"]
    for message in ("the environment is ready", ""):
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("imgsvc ")
        assert message in result.stderr
    assert result.stderr == ""


def build_wheel(checkout: Path, folder: Path, **environ: str) -> Path:
    """Build the wheel of a checkout in `folder`, and return its path."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run(
        [*command, str(checkout)], env={**os.environ, **environ}, check=True, timeout=300
    )
    (wheel,) = folder.glob("imgsvc-*.whl")
    return wheel


@pytest.mark.external
def test_wheel_contains_data_files_and_native_module(checkout: Path, tmp_path: Path) -> None:
    package = checkout / "imgsvc"
    expected = {str(f.relative_to(checkout)) for f in package.rglob("*") if f.is_file()}
    assert any(name.endswith(".sql") for name in expected)
    assert any("/static/" in name for name in expected)
    pure = build_wheel(checkout, tmp_path / "pure", IMGSVC_PURE_WHEEL="1")
    native = build_wheel(checkout, tmp_path / "native")
    assert pure.name.endswith("-py3-none-any.whl")
    assert "-cp311-abi3-" in native.name
    contents = []
    for wheel in (pure, native):
        with ZipFile(wheel) as archive:
            contents.append({name for name in archive.namelist() if name.startswith("imgsvc/")})
    assert contents[0] == expected
    assert contents[1] - expected == {"imgsvc/images/native/_requantise.abi3.so"}


# --- the native module ---------------------------------------------------------------------------


NATIVE = Path("imgsvc") / "images" / "native"


@pytest.fixture
def native_project(project: Project) -> Project:
    """Return a project with the sources of the native module."""
    (project.folder / NATIVE).mkdir(parents=True)
    for name in ("build.py", "requantise.c", "huffman_tables.h"):
        shutil.copy(ROOT / NATIVE / name, project.folder / NATIVE)
    return project


def test_start_without_compiler_reports_it_once_and_runs(native_project: Project) -> None:
    first = native_project.run(PATH="/nonexistent")
    assert first.code == 0
    assert "JPEGs are compressed more slowly: there is no C compiler (install a C" in first.err
    assert native_project.run(PATH="/nonexistent").err == ""


@pytest.mark.external
def test_first_start_builds_native_module_again_only_if_its_sources_change(
    native_project: Project,
) -> None:
    module = native_project.folder / NATIVE / "_requantise.abi3.so"
    assert "more slowly" in native_project.run(PATH="/nonexistent").err
    assert native_project.run().err == ""
    built = module.stat().st_mtime_ns
    assert native_project.run().err == ""
    assert module.stat().st_mtime_ns == built
    source = native_project.folder / NATIVE / "requantise.c"
    source.write_text(source.read_text() + "/* changed */\n")
    assert native_project.run().err == ""
    assert module.stat().st_mtime_ns != built
    source.write_text("#include <no_such_header.h>\n")
    failed = native_project.run()
    assert failed.code == 0
    assert "JPEGs are compressed more slowly: " in failed.err
    assert "no_such_header.h" in failed.err
