#!/usr/bin/env python3
"""Run imgsvc. Only Python 3.11 or newer is needed.

    python3 run.py                      start the service
    python3 run.py COMMAND [...]        run a command of imgsvc: demo, serve, process, ...
    python3 run.py test [--all] [...]   run the tests, and print their coverage; --all: also those that
                                        need a browser or Node
    python3 run.py test unit            run one suite: unit, integration, e2e or browser
    python3 run.py lint                 check lint rules, formatting and types
    python3 run.py bench [...]          run the benchmarks
    python3 run.py docs                 write the pages of docs/ that are made from the code
    python3 run.py screenshots [FOLDER] save screenshots of every state of the page

The first start creates an environment in .venv beside this file and installs the locked dependencies.
In an environment that has the dependencies, nothing is installed. If there is a C compiler, the first
start also builds a module that compresses JPEGs faster.
"""

# An old Python must be able to parse this file, so that it can report that it is too old. Use no
# syntax newer than f-strings, and above the version check use only what old versions have.
import sys

if sys.platform == "win32":
    sys.exit(
        "imgsvc runs on Linux and macOS. On Windows, use WSL: run `wsl --install`, then start it there."
    )
if sys.version_info < (3, 11):
    sys.exit(
        f"imgsvc needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable}).\n"
        "Use a newer version, for example `python3.12 run.py`."
    )

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "imgsvc.json"
"""What is installed in the environment: its platform, and the digest of each lock file."""
BUILD_SCRIPT = ROOT / "imgsvc" / "images" / "native" / "build.py"
TASKS = ("test", "lint", "bench", "docs", "screenshots")
"""Commands that need the development dependencies."""
SUITES = ("unit", "integration", "e2e", "browser")
"""Folders of tests. `run.py test unit` runs the tests of pure code alone."""


def version_numbers(version: str) -> list[int]:
    """Return the numbers of a version: "3.11.2" as [3, 11, 2]. Other parts are ignored."""
    return [int(part) for part in version.split(".") if part.isdigit()]


LOCKS = {
    "run": ROOT / "requirements.lock",
    "s3": ROOT / "requirements-s3.lock",
    "cluster": ROOT / "requirements-cluster.lock",
    "dev": ROOT / "requirements-dev.lock",
}
"""The lock file of each kind of environment. Each of the others contains that of `run`."""


def main(arguments: list[str]) -> int:
    """Run the command, and return the exit code. A command of imgsvc replaces this process."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    command = arguments[0] if arguments else "serve"
    try:
        python = find_python("dev" if command in TASKS else needed_kind(arguments))
    except SetupError as error:
        print_message(str(error))
        return 1
    except KeyboardInterrupt:
        print_message("interrupted; the next start creates the environment again")
        return 130
    build_native_module()
    if command not in TASKS:
        is_serve = not arguments or (command.startswith("-") and command != "--version")
        exec_module(python, "imgsvc", *(["serve"] if is_serve else []), *arguments)
    return run_task(python, command, arguments[1:])


def run_task(python: str, task: str, arguments: list[str]) -> int:
    """Run a task of the developers: the tests, the checks, pages, screenshots. Return the exit code."""
    os.chdir(ROOT)
    if task == "test":
        # The coverage of some tests says little, and measuring it takes time.
        all_tests = all(each.startswith("-") for each in arguments)
        plugin = ["-p", "tests.coverage_report"] if all_tests else []
        if "--all" in arguments or "browser" in arguments:
            arguments = ["-m", "", *(each for each in arguments if each != "--all")]
        arguments = [f"tests/{each}" if each in SUITES else each for each in arguments]
        exec_module(python, "pytest", *plugin, *arguments)
    if task == "bench":
        exec_module(python, "tests.bench", *arguments)
    if task == "docs":
        exec_module(python, "tests.docs", *arguments)
    if task == "screenshots":
        exec_module(python, "tests.browser.screenshots", *arguments)
    checks = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])
    return max([subprocess.call([python, "-m", *check]) for check in checks])


def exec_module(python: str, module: str, *arguments: str) -> NoReturn:
    """Replace this process by the module, so that it gets the signals and sets the exit code."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # -P: do not import modules from the working directory.
    os.execv(python, [python, "-P", "-m", module, *arguments])


def needed_kind(arguments: list[str]) -> str:
    """Return the kind of environment of a command: the key of `LOCKS` whose packages it needs."""
    if arguments[:1] in (["node"], ["cluster"]) or is_set("cluster", "listen", arguments):
        return "cluster"
    if "--bucket" in arguments or is_set("storage", "bucket", arguments):
        return "s3"
    return "run"


def is_set(section: str, key: str, arguments: list[str]) -> bool:
    """Return whether a setting that is "" by default is set, in the environment or the settings."""
    value = os.environ.get(f"IMGSVC_{section.upper()}__{key.upper()}")
    if value is not None:
        return value != ""
    file = os.environ.get("IMGSVC_CONFIG") or "config.toml"
    for option, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, rest = option.partition("=")
        if name == "--config":
            file = rest or following
    try:
        settings = tomllib.loads(Path(file).read_text("utf-8-sig"))
        return bool(settings[section][key])
    except (OSError, ValueError, KeyError, TypeError):  # imgsvc reports what is wrong
        return False


class SetupError(Exception):
    """The environment cannot be created. The message says what to do."""


def find_python(kind: str) -> str:
    """Return the path of a Python that has the dependencies. Create the environment if necessary.

    `kind` is a key of `LOCKS`. Raise `SetupError`.
    """
    if Path(sys.prefix).resolve() != VENV and has_dependencies(kind):
        return sys.executable
    if not is_ready(kind):
        try:
            with setup_lock():
                if not is_ready(kind):
                    create_environment(kind)
        except OSError as error:
            raise SetupError(f"cannot set up {VENV}: {error}") from None
    return str(PYTHON)


def has_dependencies(kind: str) -> bool:
    """Return whether the running Python has the dependencies of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    requirements = list(project["project"]["dependencies"])
    if kind == "dev":
        requirements += project["dependency-groups"]["dev"]
    if kind in {"s3", "cluster"}:
        requirements += project["project"]["optional-dependencies"][kind]
    for requirement in requirements:
        name, _, minimum = requirement.partition(">=")
        try:
            if version_numbers(importlib.metadata.version(name)) < version_numbers(minimum):
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


# --- the environment in .venv --------------------------------------------------------------------


def lock_digest(kind: str) -> str:
    """Return the SHA-256 of the lock file."""
    return hashlib.sha256(LOCKS[kind].read_bytes()).hexdigest()


def platform_id() -> str:
    """Return the interpreter and the platform, on which an environment depends as well."""
    return f"{sys.implementation.cache_tag} {sys.platform} {platform.machine()}"


def read_stamp() -> dict[str, str]:
    """Return the stamp, or {} if the environment is incomplete or made for another Python."""
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if PYTHON.exists() and stamp.get("python") == platform_id() else {}


def write_stamp(stamp: dict[str, str]) -> None:
    """Replace the stamp atomically."""
    new = STAMP.with_suffix(".new")
    new.write_text(json.dumps(stamp))
    new.replace(STAMP)


def is_ready(kind: str) -> bool:
    """Return whether the environment has the dependencies of the current lock file."""
    return read_stamp().get(kind) == lock_digest(kind)


@contextmanager
def setup_lock() -> Iterator[None]:
    """Hold the lock that only one run.py can hold, so that only one sets up the environment."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_message(f"waiting for another run.py, which is setting up {VENV}")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def create_environment(kind: str) -> None:
    """Create the environment if necessary, and install the dependencies of the lock file.

    Meanwhile the stamp is empty. If the installation is interrupted, the next start therefore creates
    the environment again.
    """
    start = time.monotonic()
    stamp = read_stamp()
    if stamp.get("run") != lock_digest("run"):
        create_venv()
        stamp = {"python": platform_id(), "run": lock_digest("run")}
    write_stamp({})
    print_message(f"installing the dependencies in {LOCKS[kind].name} (only once)")
    install(LOCKS[kind])
    write_stamp({**stamp, kind: lock_digest(kind)})
    print_message(f"the environment is ready after {time.monotonic() - start:.0f} s")


def create_venv() -> None:
    """Create an empty environment in `VENV`. Replace an old one that run.py created.

    Raise `SetupError` if `VENV` belongs to the user, or if Python has no venv module.
    """
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = "python{}.{}-venv".format(*sys.version_info)
        raise SetupError(
            f"this Python ({sys.executable}) has no venv module.\n"
            f"On Debian and Ubuntu: `apt install {package}` (or python3-venv), then start again."
        )
    if VENV.exists():
        if not STAMP.exists() and any(VENV.iterdir()):
            raise SetupError(
                f"{VENV} exists, but run.py did not create it. Remove it, or activate it,\n"
                f"`pip install -r {LOCKS['run'].name}`, and start again."
            )
        shutil.rmtree(VENV)
    print_message(f"creating an environment for Python {platform.python_version()} in {VENV}")
    VENV.mkdir()
    write_stamp({})
    base = getattr(sys, "_base_executable", sys.executable)
    run_command([base, "-m", "venv", str(VENV)], "Python could not create an environment")


def install(lock: Path) -> None:
    """Install the packages of the lock file with pip. Raise `SetupError` if that fails."""
    os.environ["PIP_USER"] = "0"
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--root-user-action=ignore"]
    run_command(
        [
            str(PYTHON),
            "-m",
            "pip",
            "install",
            *quiet,
            "--no-deps",
            "--require-hashes",
            "-r",
            str(lock),
        ],
        "pip could not install the dependencies. Check its package index (`pip config`), then start\n"
        "again",
    )


# --- the native module ---------------------------------------------------------------------------


def build_native_module() -> None:
    """Build the native module if necessary. It is optional: report once why it cannot be built."""
    spec = importlib.util.spec_from_file_location("build", BUILD_SCRIPT)
    if not BUILD_SCRIPT.exists() or spec is None or spec.loader is None:
        return
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    reported = build.read_stamp()
    reason = build.build_if_changed()
    if reason is not None and reason != reported:
        print_message(f"JPEGs are compressed more slowly: {reason}")


def run_command(command: list[str], error: str) -> None:
    """Run the command. If it fails, raise `SetupError` with `error` and the command's output."""
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if result.returncode != 0:
        output = result.stdout.decode("utf-8", "replace").strip()
        raise SetupError(f"{error}.\n{output}")


def print_message(message: str) -> None:
    """Print a message of run.py to stderr."""
    print(f"imgsvc: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
