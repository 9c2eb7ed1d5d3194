#!/usr/bin/env python3
"""Start imgsvc with nothing but Python 3.11 or newer.

    python3 run.py                      start the service
    python3 run.py serve --port 9000    any command of imgsvc with its arguments; try demo
    python3 run.py test [--all] [...]   run the tests; --all: those that need a browser or Node, too
    python3 run.py check                lint, formatting, types
    python3 run.py bench [...]          measure

The first start makes an environment in .venv beside this file and installs the locked dependencies.
Inside an environment that has them already nothing is installed.
"""

# An old Python must be able to read this file, in order to say that it is too old: no syntax that
# is newer than f-strings, and nothing above the check that it lacks.
import sys

if sys.platform == "win32":
    sys.exit(
        "imgsvc runs on Linux and macOS. On Windows, use WSL: `wsl --install`, then start there."
    )
if sys.version_info < (3, 11):
    sys.exit(
        f"imgsvc needs Python 3.11 or newer, and this is {sys.version.split()[0]} ({sys.executable}).\n"
        "Start it with a newer one, such as `python3.12 run.py`."
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
import sysconfig
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "imgsvc.json"
TASKS = ("test", "check", "bench")


def has_wheels_of_all() -> bool:
    """Whether imagecodecs has a wheel for this platform: nobody wants to wait for it to be built."""
    libc, version = platform.libc_ver()
    known = sys.platform == "darwin" or (libc == "glibc" and numbers(version) >= [2, 28])
    # A 32-bit system on a 64-bit kernel, as a Raspberry Pi's may be, names the kernel's machine.
    wide = sys.maxsize > 2**32 and platform.machine() in ("x86_64", "aarch64", "arm64")
    usual = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
    return known and wide and usual


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


LOCKS = {
    "run": ROOT / ("requirements.lock" if has_wheels_of_all() else "requirements-slim.lock"),
    "dev": ROOT / "requirements-dev.lock",
}


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    command = arguments[0] if arguments else "serve"
    try:
        python = environment("dev" if command in TASKS else "run")
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next start sets the environment up anew")
        return 130
    if command not in TASKS:
        bare = not arguments or (command.startswith("-") and command != "--version")
        become(python, "imgsvc", *(["serve"] if bare else []), *arguments)
    return run_task(python, command, arguments[1:])


def run_task(python: str, task: str, arguments: list[str]) -> int:
    os.chdir(ROOT)
    if task == "test":
        if "--all" in arguments:
            arguments = ["-m", "", *(each for each in arguments if each != "--all")]
        become(python, "pytest", *arguments)
    if task == "bench":
        become(python, "tests.bench", *arguments)
    checks = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])
    return max([subprocess.call([python, "-m", *check]) for check in checks])


def become(python: str, module: str, *arguments: str) -> NoReturn:
    """Be replaced by it, so that signals and the exit code are its own."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # -P: a file in the folder where the user stands must not pass for one of our modules.
    os.execv(python, [python, "-P", "-m", module, *arguments])


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


def environment(kind: str) -> str:
    """Find a Python that has the dependencies, making the environment if need be."""
    if Path(sys.prefix).resolve() != VENV and has_dependencies(kind):
        return sys.executable
    if not is_ready(kind):
        try:
            with one_at_a_time():
                if not is_ready(kind):
                    make(kind)
        except OSError as error:
            raise SetupError(f"cannot set up {VENV}: {error}") from None
    return str(PYTHON)


def has_dependencies(kind: str) -> bool:
    """Whether the Python that runs this has what pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = list(project["project"]["dependencies"])
    if kind == "dev":
        wanted += project["dependency-groups"]["dev"]
    for requirement in wanted:
        name, _, least = requirement.partition(">=")
        try:
            if numbers(importlib.metadata.version(name)) < numbers(least):
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


# --- the environment beside this file ----------------------------------------------------------


def lock_digest(kind: str) -> str:
    return hashlib.sha256(LOCKS[kind].read_bytes()).hexdigest()


def identity() -> str:
    """What an environment depends on besides its lock file."""
    return f"{sys.implementation.cache_tag} {sys.platform} {platform.machine()}"


def read_stamp() -> dict[str, str]:
    """What the environment was brought to; nothing where it is not whole or not for this Python."""
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if PYTHON.exists() and stamp.get("python") == identity() else {}


def write_stamp(stamp: dict[str, str]) -> None:
    new = STAMP.with_suffix(".new")
    new.write_text(json.dumps(stamp))
    new.replace(STAMP)


def is_ready(kind: str) -> bool:
    return read_stamp().get(kind) == lock_digest(kind)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run.py that is setting up {VENV}")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def make(kind: str) -> None:
    """Bring the environment to what the lock file says.

    While that lasts its stamp is empty, so that the next start finds an interrupted one, and makes it
    anew.
    """
    began = time.monotonic()
    stamp = read_stamp()
    if stamp.get("run") != lock_digest("run"):
        make_venv()
        stamp = {"python": identity(), "run": lock_digest("run")}
    write_stamp({})
    say(f"installing what {LOCKS[kind].name} names (only this once)")
    install(LOCKS[kind])
    write_stamp({**stamp, kind: lock_digest(kind)})
    say(f"the environment is ready, after {time.monotonic() - began:.0f} s")


def make_venv() -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = "python{}.{}-venv".format(*sys.version_info)
        raise SetupError(
            f"this Python ({sys.executable}) came without its venv module.\n"
            f"On Debian and Ubuntu: `apt install {package}` (or python3-venv). Then start again."
        )
    if VENV.exists():
        if not STAMP.exists() and any(VENV.iterdir()):
            raise SetupError(
                f"{VENV} is there, but run.py did not make it. Remove it; or activate it,\n"
                f"`pip install -r {LOCKS['run'].name}`, and start again."
            )
        shutil.rmtree(VENV)
    say(f"making an environment for Python {platform.python_version()} in {VENV}")
    VENV.mkdir()
    write_stamp({})
    base = getattr(sys, "_base_executable", sys.executable)
    call([base, "-m", "venv", str(VENV)], "Python could not make an environment")


def install(lock: Path) -> None:
    os.environ["PIP_USER"] = "0"
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--root-user-action=ignore"]
    call(
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
        "pip could not install the dependencies. Does it reach its package index (`pip config`)?\n"
        "The next start tries again",
    )


def call(command: list[str], trouble: str) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        output = done.stdout.decode("utf-8", "replace").strip()
        raise SetupError(f"{trouble}.\n{output}")


def say(message: str) -> None:
    print(f"imgsvc: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
