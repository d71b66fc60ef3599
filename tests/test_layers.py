"""The order of the layers, read from the imports; what the command line may import; what runs on a device."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "edgenas"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__", "errors"),
    ("artifacts", "stats", "store", "progress", "user_code", "executors", "yaml_file"),
    ("network", "device", "data", "pareto"),
    ("spaces", "onnxio", "nets"),
    ("targets",),
    ("runtimes",),
    ("measure", "preflight"),
    ("latency",),
    ("supernet", "search", "compress"),
    ("bundle",),
    ("report",),
    ("pipeline", "doctor"),
    ("cli_options",),
    ("cli",),
    ("__main__",),
)
LAYER = {unit: number for number, units in enumerate(LAYERS) for unit in units}
SLOW_TO_IMPORT = ("numpy", "torch", "onnx", "onnxruntime", "nncf", "ray")


def unit_of(path: Path, package: Path) -> str:
    """The top-level module or sub-package that a file belongs to."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def imported_units(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """(line, unit of `package`) for each import of a file, wherever in the file it stands."""
    name = package.name
    here = (name, *path.relative_to(package).with_suffix("").parts)[:-1]  # the package that relative imports start from
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            # `from edgenas import device` names a unit, `from edgenas import __version__` the package itself.
            modules = [[*base, alias.name] for alias in node.names] if base == [name] else [base]
        else:
            continue
        for module in modules:
            if module[0] == name:
                unit = module[1] if len(module) > 1 else "__init__"
                is_unit = (package / unit).is_dir() or (package / f"{unit}.py").is_file()
                yield node.lineno, unit if is_unit else "__init__"


def violations(package: Path) -> list[str]:
    """What breaks the order of the layers, one line each."""
    found = []
    for path in sorted(package.rglob("*.py")):
        unit = unit_of(path, package)
        if unit not in LAYER:
            found.append(
                f"{path}: the unit {unit!r} is in no layer; add it to LAYERS in tests/test_layers.py, where it belongs"
            )
            continue
        for line, other in imported_units(path, package):
            if other != unit and other in LAYER and LAYER[other] >= LAYER[unit]:
                found.append(
                    f"{path}:{line}: {unit!r} (layer {LAYER[unit]}) imports {other!r} (layer {LAYER[other]}), "
                    "which is not below it; take what is needed as an argument"
                )
    return found


def test_imports_go_to_a_lower_layer_only() -> None:
    assert not violations(PACKAGE), "\n".join(violations(PACKAGE))


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("network/fuse.py", "from edgenas.latency import table", "'network' (layer 2) imports 'latency' (layer 7)"),
        ("network/fuse.py", "def f():\n    import edgenas.device", "'network' (layer 2) imports 'device' (layer 2)"),
        ("network/fuse.py", "from edgenas import cli", "imports 'cli'"),
        ("network/fuse.py", "from .. import cli", "imports 'cli'"),
        ("network/fuse.py", "from ..latency.table import Table", "imports 'latency'"),
        ("device.py", "from . import cli", "imports 'cli'"),
        (
            "network/fuse.py",
            "import edgenas.errors\nfrom edgenas.network import graph\nfrom . import graph\nimport os",
            None,
        ),
        ("cli.py", "from edgenas import __version__, device\nfrom edgenas.latency import table", None),
        ("helpers.py", "", "'helpers' is in no layer"),
    ],
)
def test_the_check_finds_what_it_should(tmp_path: Path, file: str, source: str, expected: str | None) -> None:
    package = tmp_path / "edgenas"
    for name in ("__init__.py", "errors.py", "cli.py", "device.py", "network/graph.py", "latency/table.py", file):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source if name == file else "", encoding="utf-8")
    found = violations(package)
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1
        assert expected in found[0]


def test_help_imports_nothing_that_is_slow() -> None:
    if not (PACKAGE / "cli.py").is_file():
        pytest.skip("edgenas/cli.py does not exist yet")
    program = (
        "import sys\nfrom edgenas.cli import main\nsys.argv = ['edgenas', '--help']\n"
        "try:\n    main()\nfinally:\n    print('LOADED', *sorted(name for name in sys.modules if '.' not in name))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert "Usage: edgenas" in run.stdout, run.stderr
    loaded = run.stdout.split("LOADED", 1)[1].split()
    assert "click" in loaded
    assert not set(SLOW_TO_IMPORT) & set(loaded)


def on_device_files() -> list[Path]:
    along = ("runtimes/trtexec.py", "runtimes/onnxruntime_profile.py", "bundle/device_script.py")
    modules = [PACKAGE / name for name in along]
    return sorted({*(PACKAGE / "targets" / "on_device").glob("*.py"), *PACKAGE.rglob("*_agent.py"), *modules})


def test_on_device_files_import_the_standard_library_alone() -> None:
    for path in on_device_files():
        # Functions may import the runtime that they drive; the file itself must load under any Python.
        for node in at_module_level(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            known = {*sys.stdlib_module_names, *(each.stem for each in on_device_files()), "part"}  # sent along
            foreign = [name for name in named if relative or name.split(".")[0] not in known]
            assert not foreign, f"{path}:{node.lineno} imports {foreign}, which a device need not have"


def test_on_device_files_are_python_3_6(tmp_path: Path) -> None:
    """By vermin, which knows when each function and argument of the standard library came."""
    copies = []
    for path in on_device_files():
        copies.append(tmp_path / f"{path.parent.name}_{path.name}")
        copies[-1].write_bytes(path.read_bytes())
    vermin = [sys.executable, "-c", "import vermin; vermin.main()", "-t=3.6-", "--no-tips", *map(str, copies)]
    found = subprocess.run(vermin, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert len(copies) >= 9


def at_module_level(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when the file is loaded, also those inside an `if` or a `try`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_module_level(node)
