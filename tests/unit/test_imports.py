"""Data flows in one direction: which modules and packages of imgsvc may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "imgsvc"

LEAVES = {
    "",
    "access",
    "models",
    "image_types",
    "table_types",
    "upload_types",
    "slugs",
    "errors",
    "machine_errors",
    "sample",
    "error_help",
    "config",
    "config_types",
    "urls",
    "logs",
    "metrics",
    "waiting",
    "system_clock",
    "atomic_write",
}
CORE = {"table", "database", "network", "images", "workers", "storage"}
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, LEAVES),
    **{package: LEAVES | {package} for package in CORE},
    "execution": LEAVES | {"execution", "network", "workers", "storage"},
    "status_table": LEAVES | {"table"},
    "spreadsheets": LEAVES | {"table", "storage", "workers"},
    "staged_repeat": LEAVES | {"database"},
    "upload_limits": LEAVES,
    "staged_upload": LEAVES | {"table", "database", "spreadsheets", "upload_limits"},
    "intake": LEAVES
    | {
        "upload_chunks",
        "upload_limits",
        "table",
        "database",
        "storage",
        "spreadsheets",
        "staged_repeat",
        "staged_upload",
    },
    "serializers": LEAVES | {"status_table"},
    "processing": LEAVES | {"processing", "database", "execution", "network", "storage"},
    "web": LEAVES
    | {
        "web",
        "table",
        "database",
        "storage",
        "processing",
        "intake",
        "serializers",
        "status_table",
    },
    "limits": LEAVES | {"database", "staged_upload", "processing", "web"},
    "adapters": LEAVES | CORE | {"execution", "processing"},
    "gauges": LEAVES | {"execution", "images", "processing", "storage"},
    "service": LEAVES
    | CORE
    | {
        "adapters",
        "gauges",
        "execution",
        "processing",
        "intake",
        "spreadsheets",
        "serializers",
        "web",
        "limits",
    },
    "node": LEAVES | {"adapters", "execution", "network", "storage"},
    "cli_cluster": LEAVES | {"cli_options", "config_loader", "execution", "node", "serve"},
    "serve": LEAVES | {"service", "config_loader", "workers"},
    "client": LEAVES | {"client"},
    "terminal": LEAVES,
    "backup": LEAVES | {"database", "storage", "service"},
    "check": LEAVES | {"adapters", "database", "storage", "service"},
    "instance_secret": LEAVES | {"database", "storage", "service"},
    "offline": LEAVES | {"image_folder", "intake", "serializers", "service", "status_table"},
    "demo": LEAVES | {"service", "storage", "client", "terminal"},
    "config_loader": LEAVES,
    "cli_options": LEAVES | {"client"},
    "cli_table_options": LEAVES | {"client", "status_table", "table"},
    "cli_requests": LEAVES | {"cli_options", "cli_table_options", "client", "terminal"},
    "cli_actions": LEAVES | {"cli_options", "cli_table_options", "client", "terminal"},
    "cli_operations": LEAVES
    | {"backup", "check", "cli_options", "config_loader", "instance_secret"},
    "image_folder": LEAVES | {"storage"},
    "upload_chunks": LEAVES | {"storage"},
    "cli": LEAVES
    | {
        "cli_actions",
        "cli_operations",
        "cli_cluster",
        "cli_options",
        "cli_requests",
        "cli_table_options",
        "config_loader",
        "serve",
        "client",
        "terminal",
        "backup",
        "check",
        "instance_secret",
        "offline",
        "demo",
        "images",
        "workers",
    },
    "__main__": {"cli"},
}
"""For each component (a module or a package of imgsvc), the components that it may import."""

SEAMS: dict[str, set[str]] = {
    "processing": {
        "execution.base",
        "network.circuit_breaker",
        "network.retry",
        "network.webhooks",
        "storage.base",
        "storage.state",
        "storage.thumbnail_cache",
    },
    "web": {"storage.base", "storage.scratch", "storage.spool"},
    "intake": {"storage.state", "storage.scratch", "storage.spool"},
    "spreadsheets": {"storage.scratch", "storage.spool"},
    "cli": {"images.native"},
}
"""For each component, the only modules of `execution`, `images`, `network` and `storage` to import.

So `processing` and `web` know the interfaces of stores and executors, and none of them."""

LIBRARIES: dict[str, set[str]] = {
    "anyascii": {"slugs"},
    "PIL": {"images", "demo"},
    "aiohttp.web": {"web", "demo"},
    "aiohttp": {"web", "adapters", "demo", "network", "client"},
    "aiofiles": {"storage", "spreadsheets", "web", "offline"},
    "aiosqlite": {"database"},
    "sqlite3": {"database", "check", "instance_secret"},
    "cryptography": {"execution"},
    "distributed": {"execution", "node"},
    "click": {
        "cli",
        "cli_actions",
        "cli_cluster",
        "cli_operations",
        "cli_options",
        "cli_requests",
        "cli_table_options",
    },
    "obstore": {"storage"},
    "rich": {"cli", "cli_actions", "cli_requests", "terminal", "demo"},
    "concurrent.futures.process": {"workers"},
    "multipart": {"web"},
    "multiprocessing": {"workers"},
    "xml": {"table"},
    "prometheus_client": {"metrics", "web"},
}
"""For each library, the components that may import it."""

MODULE_NAMES = {"pillow": "PIL", "scikit-image": "skimage"}
"""The module names of packages that are named differently."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def component_of(file: Path) -> str:
    """Return the module or package of imgsvc that a file belongs to. "": `imgsvc/__init__.py`."""
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(file: Path) -> set[str]:
    """Return the dotted names that a module imports anywhere: `from a import b` is `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_module_imports_only_what_its_component_may(file: Path) -> None:
    component = component_of(file)
    components = {str(each.relative_to(PACKAGE).parts[0]).removesuffix(".py") for each in MODULES}
    imports = {name.split(".")[1] for name in imported(file) if name.startswith("imgsvc.")}
    assert (imports & components) - ALLOWED[component] == set()


@pytest.mark.parametrize("component", SEAMS)
def test_component_knows_only_the_interfaces_of_stores_and_executors(component: str) -> None:
    imports = {
        ".".join(name.split(".")[1:3])
        for file in MODULES
        if component_of(file) == component
        for name in imported(file)
        if re.match(r"imgsvc\.(execution|images|network|storage)\.", name)
    }
    assert imports - SEAMS[component] == set()


def test_processing_takes_objects_and_no_callables() -> None:
    """Calls go down and results return: a component of `processing` is passed no callback."""
    callables = [
        f"{file.name}:{parameter.lineno}: {parameter.arg}"
        for file in (PACKAGE / "processing").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for parameter in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if parameter.annotation and "Callable" in ast.unparse(parameter.annotation)
    ]
    assert callables == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_is_imported_only_by_its_components(library: str) -> None:
    used = {
        component_of(file)
        for file in MODULES
        for name in imported(file)
        if name == library or name.startswith(f"{library}.")
    }
    assert used - LIBRARIES[library] == set()


def test_service_without_a_bucket_imports_no_module_of_an_extra(tmp_path: Path) -> None:
    """In a process of its own: other tests import them."""
    script = (
        "import asyncio, sys\n"
        "import imgsvc.cli\n"
        "from pathlib import Path\n"
        "from imgsvc.config import Config\n"
        "from imgsvc.service import running\n"
        "async def run():\n"
        "    storage = {'data_dir': Path(sys.argv[1])}\n"
        "    async with running(Config.model_validate({'storage': storage}), listen=False):\n"
        "        pass\n"
        "asyncio.run(run())\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(tops & {'obstore', 'boto3', 'cryptography', 'distributed', 'dask', 'tornado'})"
    )
    process = subprocess.run(
        [sys.executable, "-P", "-c", script, str(tmp_path)],
        cwd=PACKAGE.parent,
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout == "set()\n", process.stderr


def test_every_component_has_an_entry_in_allowed() -> None:
    assert {component_of(file) for file in MODULES} <= set(ALLOWED)


def declared(requirements: list[str]) -> set[str]:
    """Return the modules of the packages that the requirements name."""
    names = {re.split("[>=]", each)[0] for each in requirements}
    return {MODULE_NAMES.get(name, name.replace("-", "_")) for name in names}


def third_party(files: Iterable[Path]) -> set[str]:
    """Return the top-level modules of other packages that the files import."""
    tops = {name.split(".")[0] for file in files for name in imported(file)}
    return tops - set(sys.stdlib_module_names) - {"imgsvc", "tests", "run", "_typeshed"}


def test_imported_libraries_are_the_declared_ones() -> None:
    """An undeclared library, such as yarl through aiohttp, can disappear with an update."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    runtime = declared(project["project"]["dependencies"])
    extras = project["project"]["optional-dependencies"].values()
    extra = set().union(*map(declared, extras))
    assert third_party(MODULES) - extra == runtime
    peers = PACKAGE.parent / "tests" / "bench" / "peers"
    tests = [f for f in (PACKAGE.parent / "tests").rglob("*.py") if peers not in f.parents]
    assert third_party(tests) <= runtime | extra | declared(project["dependency-groups"]["dev"])
