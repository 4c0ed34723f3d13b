"""The shape of the project itself: who imports whom, what an import brings along, one version."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import numbarnn

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "numbarnn"

# From the ground up. A module may import its own level and those below; the longest prefix that fits a
# module's name says its level. A module under no other prefix stands with the face, "numbarnn" itself:
# it may import everything, and only the face may import it.
LEVELS = (
    ("numbarnn.arguments", "numbarnn.devices", "numbarnn.datasets"),
    ("numbarnn.jit",),
    ("numbarnn.cells",),
    ("numbarnn.engine",),
    ("numbarnn.sequences",),
    ("numbarnn.layers", "numbarnn.kernels"),
    ("numbarnn.training",),
    ("numbarnn.models",),
    ("numbarnn",),
)

CELL_CONTRACT = "numbarnn.cells.contract"
HARD_DEPENDENCIES = {"numpy", "numba", "llvmlite"}
MAY_IMPORT_NUMBA_CUDA = {"numbarnn.engine.cuda.device"}
NEVER_IMPORTED_ALONG = ("torch", "tqdm", "scipy", "sklearn", "matplotlib", "numba.cuda")


MOST_LINES = 450
# Long by their docstrings.
MAY_BE_LONGER = {"numbarnn.layers.recurrent"}


class Import(NamedTuple):
    """One name that a module imports, made absolute; ``on_load``: when it is loaded, not on a later call."""

    name: str
    line: int
    on_load: bool


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, root: Path = ROOT) -> list[Import]:
    """All imports of a file; ``from a import b`` counts as ``a.b``, be that a module or a name in one."""
    package = module_name(path, root).split(".")
    if path.stem != "__init__":
        package.pop()
    found = []

    def visit(node: ast.AST, on_load: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, on_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(above + (node.module.split(".") if node.module else []))
            found.extend(Import(f"{base}.{alias.name}", node.lineno, on_load) for alias in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            on_load = False
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, False)
            for child in node.orelse:
                visit(child, on_load)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, on_load)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def level_of(name: str) -> int:
    fitting = [
        (len(prefix), level)
        for level, prefixes in enumerate(LEVELS)
        for prefix in prefixes
        if is_within(name, prefix)
    ]
    return max(fitting)[1]


def own_imports(path: Path, root: Path) -> Iterator[Import]:
    return (found for found in imports_of(path, root) if is_within(found.name, "numbarnn"))


def upward_imports(path: Path, root: Path = ROOT) -> list[str]:
    level = level_of(module_name(path, root))
    return [
        f"{path.relative_to(root)}:{found.line} imports {found.name}"
        for found in own_imports(path, root)
        if level_of(found.name) > level
    ]


def sibling_imports(path: Path, root: Path = ROOT) -> list[str]:
    """Imports of other cells or of their registry by the file of one cell; the contract is free to all."""
    return [
        f"{path.relative_to(root)}:{found.line} imports {found.name}"
        for found in own_imports(path, root)
        if is_within(found.name, "numbarnn.cells") and not is_within(found.name, CELL_CONTRACT)
    ]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_imports_run_downward():
    assert [found for path in modules() for found in upward_imports(path)] == []


def test_cells_never_import_each_other():
    cells = [path for path in (PACKAGE / "cells").glob("*.py") if path.stem != "__init__"]
    assert [found for path in cells for found in sibling_imports(path)] == []


def test_numba_cuda_is_imported_behind_one_door():
    importing = {
        module_name(path, ROOT)
        for path in modules()
        for found in imports_of(path)
        if is_within(found.name, "numba.cuda")
    }
    assert importing <= MAY_IMPORT_NUMBA_CUDA


def test_only_hard_dependencies_are_imported_on_load():
    allowed = HARD_DEPENDENCIES | {"numbarnn"} | sys.stdlib_module_names
    assert [
        f"{path.relative_to(ROOT)}:{found.line} imports {found.name}"
        for path in modules()
        for found in imports_of(path)
        if found.on_load and found.name.partition(".")[0] not in allowed
    ] == []


def test_reference_imports_nothing_of_ours():
    names = [found.name for found in imports_of(ROOT / "tests" / "reference.py")]
    assert [name for name in names if is_within(name, "numbarnn")] == []


def test_import_brings_nothing_optional_along():
    program = (
        f"import sys, numbarnn\nprint(*(name for name in {NEVER_IMPORTED_ALONG!r} if name in sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def long_files(paths: list[Path], root: Path = ROOT) -> set[str]:
    return {
        module_name(path, root)
        for path in paths
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }


def test_no_file_is_too_long():
    assert long_files(modules()) <= MAY_BE_LONGER


def test_one_version():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r'^version = "([^"]+)"$', project, re.MULTILINE)
    assert declared is not None
    assert numbarnn.__version__ == declared[1]


# The checks above pass on a clean tree whatever they do, so each is shown a file that it must object to.


@pytest.fixture
def planted(tmp_path):
    """Write one module of a made-up package and return its path."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("numbarnn/jit/vectors.py", "from numbarnn.cells import lstm"),
        ("numbarnn/jit/vectors.py", "from numbarnn.engine import tile"),
        ("numbarnn/engine/tile.py", "from numbarnn.sequences.layout import Layout"),
        ("numbarnn/cells/lstm.py", "from ..engine.scan.forward import forward"),
        ("numbarnn/cells/lstm.py", "from .. import layers"),
        ("numbarnn/engine/scan/forward.py", "import numbarnn.layers.recurrent as recurrent"),
        ("numbarnn/layers/recurrent.py", "def build():\n    from numbarnn.training import losses"),
        ("numbarnn/layers/__init__.py", "from ..training import losses"),
        ("numbarnn/training/fit.py", "from numbarnn.models.sequential import Sequential"),
        ("numbarnn/models/sequential.py", "from numbarnn import LSTM"),
        ("numbarnn/models/sequential.py", "from .. import estimators"),
    ],
)
def test_an_upward_import_is_found(planted, tmp_path, module, text):
    assert len(upward_imports(planted(module, text), tmp_path)) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("numbarnn/engine/scan/forward.py", "from numbarnn.cells import gates_forward"),
        ("numbarnn/cells/lstm.py", "from numbarnn.jit.activations import sigmoid"),
        ("numbarnn/layers/recurrent.py", "from ..engine import scan\nfrom . import dense"),
        (
            "numbarnn/models/sequential.py",
            "from numbarnn.training import fit\nfrom numbarnn import sequences",
        ),
        ("numbarnn/__init__.py", "from .models.sequential import Sequential"),
    ],
)
def test_a_downward_import_is_let_through(planted, tmp_path, module, text):
    assert upward_imports(planted(module, text), tmp_path) == []


def test_a_file_that_is_too_long_is_found(planted, tmp_path):
    paths = [planted("numbarnn/a.py", "x = 1\n" * MOST_LINES), planted("numbarnn/b.py", "x = 1\n" * 451)]
    assert long_files(paths, tmp_path) == {"numbarnn.b"}


@pytest.mark.parametrize(
    "text",
    ["from . import gru", "from numbarnn.cells.gru import forward", "from numbarnn.cells import CELLS"],
)
def test_a_sibling_import_is_found(planted, tmp_path, text):
    assert len(sibling_imports(planted("numbarnn/cells/lstm.py", text), tmp_path)) == 1


def test_the_contract_of_cells_is_let_through(planted, tmp_path):
    path = planted("numbarnn/cells/lstm.py", "from .contract import Cell")
    assert sibling_imports(path, tmp_path) == []


def test_imports_on_load_are_told_from_later_ones(planted, tmp_path):
    path = planted(
        "numbarnn/models/sequential.py",
        "import tqdm\n"
        "try:\n    import scipy.linalg\nexcept ImportError:\n    pass\n"
        "def plot():\n    from matplotlib import pyplot\n"
        "if typing.TYPE_CHECKING:\n    import torch\n"
        "else:\n    from numba import cuda\n",
    )
    found = {(each.name, each.on_load) for each in imports_of(path, tmp_path)}
    assert found == {
        ("tqdm", True),
        ("scipy.linalg", True),
        ("matplotlib.pyplot", False),
        ("torch", False),
        ("numba.cuda", True),
    }
