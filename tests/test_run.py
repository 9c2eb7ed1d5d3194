"""run.py, as a newcomer starts it, on a copy of the project with a small stand-in for imgsvc."""

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
STAND_IN = """\
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(json.dumps([os.getpid(), sys.executable, sys.argv[1:]]), flush=True)
if sys.argv[1:] == ["serve", "--wait"]:
    while True:
        time.sleep(0.1)
sys.exit(3 if "fail" in sys.argv else 0)
"""


OF_FAST = {"imagecodecs", "numpy"}
"""What the extra `fast` brings."""


class Project:
    """A copy of what run.py needs, with a lock file that installs nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venv = folder / ".venv"
        self.stamp = self.venv / "imgsvc.json"
        shutil.copy(ROOT / "run.py", folder)
        (folder / "pyproject.toml").write_text(
            '[project]\ndependencies = ["no-such-package-for-imgsvc>=1"]\n'
            "[dependency-groups]\ndev = []\n"
        )
        self.lock("# nothing\n")
        (folder / "imgsvc").mkdir()
        (folder / "imgsvc" / "__main__.py").write_text(STAND_IN)

    def lock(self, text: str) -> None:
        for name in ("requirements.lock", "requirements-slim.lock"):
            (self.folder / name).write_text(text)
        (self.folder / "requirements-dev.lock").write_text(text + "# dev\n")

    def start(self, *arguments: str, python: str = BASE_PYTHON, **environ: str) -> Started:
        return Started(self, [python, str(self.folder / "run.py"), *arguments], environ)

    def run(self, *arguments: str, python: str = BASE_PYTHON, **environ: str) -> Started:
        return self.start(*arguments, python=python, **environ).ended()


class Started:
    def __init__(self, project: Project, command: list[str], environ: dict[str, str]) -> None:
        elsewhere = project.folder.parent
        self.process = subprocess.Popen(
            command,
            cwd=elsewhere,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.out = self.said = ""

    def ended(self) -> Started:
        self.out, self.said = self.process.communicate(timeout=90)
        return self

    @property
    def code(self) -> int:
        return self.process.returncode

    @property
    def ran(self) -> tuple[int, str, list[str]]:
        """Process id, interpreter and arguments of the imgsvc that was started."""
        pid, executable, arguments = json.loads(self.out)
        return pid, executable, arguments


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


def test_it_makes_an_environment_once_and_becomes_the_service(project: Project) -> None:
    first = project.run("serve", "--port", "9000")
    assert first.code == 0, first.said
    assert "making an environment" in first.said
    assert first.ran == (
        first.process.pid,
        str(project.venv / "bin" / "python"),
        ["serve", "--port", "9000"],
    )
    made = project.stamp.stat().st_mtime_ns
    second = project.run("fail", "x y")
    assert (second.code, second.said) == (3, "")
    assert second.ran[2] == ["fail", "x y"]
    assert project.stamp.stat().st_mtime_ns == made
    assert project.run().ran[2] == ["serve"]
    assert project.run("--port", "1").ran[2] == ["serve", "--port", "1"]
    assert project.run("--version").ran[2] == ["--version"]

    service = project.start("--wait")
    assert service.process.stdout is not None
    service.process.stdout.readline()
    service.process.terminate()
    assert service.ended().code == 7

    project.lock("# another\n")
    assert "making an environment" in project.run().said
    assert "requirements-dev.lock" in project.run("test", "--version").said
    assert project.run().said == ""


def test_an_interrupted_set_up_is_made_anew(project: Project) -> None:
    for end in (signal.SIGKILL, signal.SIGINT):
        started = project.start()
        block_until((project.venv / "pyvenv.cfg").exists, what="the set-up to be under way")
        os.killpg(started.process.pid, end)
        assert started.ended().code == (130 if end is signal.SIGINT else -9)
        assert json.loads(project.stamp.read_text()) == {}
        repaired = project.run()
        assert "making an environment" in repaired.said
        assert repaired.code == 0
        shutil.rmtree(project.venv)


def test_a_failed_installation_says_so_and_is_tried_again(project: Project) -> None:
    project.lock("no-such-package-for-imgsvc==1 --hash=sha256:" + "0" * 64 + "\n")
    failed = project.run(PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert failed.code == 1
    assert "pip could not install" in failed.said
    assert "no-such-package-for-imgsvc" in failed.said
    assert "Traceback" not in failed.said
    project.lock("# nothing\n")
    assert project.run().code == 0


def test_two_first_starts_at_once_make_one_environment(project: Project) -> None:
    starts = [project.start(), project.start()]
    said = [start.ended().said for start in starts]
    assert [start.code for start in starts] == [0, 0]
    assert sum("making an environment" in each for each in said) == 1
    assert sum("waiting for another" in each for each in said) <= 1


def test_an_environment_of_the_users_own_is_left_alone(project: Project) -> None:
    project.venv.mkdir()
    (project.venv / "theirs").write_text("x")
    refused = project.run()
    assert refused.code == 1
    assert "run.py did not make it" in refused.said
    assert [each.name for each in project.venv.iterdir()] == ["theirs"]


def test_where_the_dependencies_are_there_nothing_is_installed(project: Project) -> None:
    shutil.copy(ROOT / "pyproject.toml", project.folder)
    started = project.run("a", python=sys.executable)
    assert started.code == 0, started.said
    assert started.ran == (started.process.pid, sys.executable, ["a"])
    assert started.said == ""
    assert not project.venv.exists()


def test_a_python_without_venv_is_told_what_to_do(project: Project, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\nsys.modules['ensurepip'] = None"
    )
    refused = project.run(PYTHONPATH=str(tmp_path / "site"))
    assert refused.code == 1
    assert re.search(r"apt install python3\.\d+-venv", refused.said)
    assert not project.venv.exists()


def test_help_needs_no_environment(project: Project) -> None:
    shown = project.run("--help")
    assert shown.code == 0
    assert "run.py test" in shown.out
    assert not project.venv.exists()


def test_an_old_python_can_read_it_as_far_as_its_check() -> None:
    tree = ast.parse((ROOT / "run.py").read_text(), feature_version=(3, 6))
    before = [type(each).__name__ for each in tree.body[:4]]
    assert before == ["Expr", "Import", "If", "If"]
    assert ast.unparse(tree.body[1]) == "import sys"
    assert "(3, 11)" in ast.unparse(tree.body[3])


# --- the lock files ------------------------------------------------------------------------------


def pins(name: str) -> dict[str, set[str]]:
    """What a lock file pins: versions by package. Each pin has a hash, and there is nothing else."""
    found: dict[str, set[str]] = {}
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    for entry in text.replace("\\\n", "").splitlines():
        match = re.fullmatch(
            r"([a-z0-9-]+)==(\S+)( ;[^-]*?)?((?:\s+--hash=sha256:[0-9a-f]{64})+)", entry
        )
        assert match is not None, entry
        found.setdefault(match[1], set()).add(match[2])
    return found


@pytest.mark.parametrize(
    ("system", "libc", "machine", "bits", "lock"),
    [
        ("linux", ("glibc", "2.28"), "x86_64", 64, "requirements.lock"),
        ("linux", ("glibc", "2.41"), "aarch64", 64, "requirements.lock"),
        ("darwin", ("", ""), "arm64", 64, "requirements.lock"),
        ("linux", ("glibc", "2.17"), "x86_64", 64, "requirements-slim.lock"),
        ("linux", ("musl", "1"), "x86_64", 64, "requirements-slim.lock"),
        ("linux", ("", ""), "aarch64", 64, "requirements-slim.lock"),
        ("linux", ("glibc", "2.41"), "armv7l", 32, "requirements-slim.lock"),
        ("linux", ("glibc", "2.41"), "aarch64", 32, "requirements-slim.lock"),
        ("linux", ("glibc", "2.41"), "riscv64", 64, "requirements-slim.lock"),
    ],
)
def test_the_lock_is_one_whose_wheels_there_are(
    system: str, libc: tuple[str, str], machine: str, bits: int, lock: str
) -> None:
    code = (
        "import platform, sys, sysconfig\n"
        "sysconfig.get_config_vars()  # while the system is still what it is\n"
        f"sys.platform, sys.maxsize = {system!r}, 2**{bits - 1} - 1\n"
        f"platform.libc_ver, platform.machine = lambda: {libc!r}, lambda: {machine!r}\n"
        "import run; print(run.LOCKS['run'].name)"
    )
    done = subprocess.run(
        [BASE_PYTHON, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == lock, done.stderr


def test_the_lock_files_name_no_host() -> None:
    for name in ("requirements.lock", "requirements-slim.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert "index" not in text


def test_the_lock_files_agree_with_each_other_and_with_the_project() -> None:
    runtime, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    slim = pins("requirements-slim.lock")
    assert {name: dev.get(name) for name in runtime} == runtime
    assert {name: slim.get(name) for name in runtime if name not in OF_FAST} == slim
    assert runtime.keys() >= OF_FAST
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for wanted, lock in (
        (project["project"]["dependencies"], slim),
        (project["project"]["optional-dependencies"]["fast"], runtime),
        (project["dependency-groups"]["dev"], dev),
    ):
        for requirement in wanted:
            name, _, least = requirement.partition(">=")
            for version in lock[name]:
                assert [int(n) for n in re.findall(r"\d+", version)] >= [
                    int(n) for n in least.split(".")
                ]


# --- with a package index ------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The project's own files, as a clean checkout has them."""
    folder = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return folder


@pytest.mark.external
def test_a_clean_checkout_starts(checkout: Path) -> None:
    command = [BASE_PYTHON, str(checkout / "run.py"), "--version"]
    for said in ("the environment is ready", ""):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("imgsvc ")
        assert said in done.stderr
    assert done.stderr == ""


@pytest.mark.external
def test_the_wheel_has_what_is_not_python(checkout: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "-w", str(tmp_path), str(checkout)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("imgsvc-*.whl")
    with ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    package = checkout / "imgsvc"
    ours = {str(f.relative_to(checkout)) for f in package.rglob("*") if f.is_file()}
    assert ours <= packed
    assert any(name.endswith(".sql") for name in packed)
    assert any("/static/" in name for name in packed)
