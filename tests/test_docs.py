"""The documentation: its code runs, and the reference names everything that is public."""

import importlib.util
import re
from pathlib import Path

import pytest

import numbarnn

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BUILT = ("_build", "examples", "generated")  # folders of docs/ that are made, not written
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
AUTOSUMMARY = re.compile(r"^\.\. autosummary::\n((?:[ ]{3}.*\n|\n)+)", re.MULTILINE)
BASE_CLASSES = {"training.losses.Loss", "training.optimizers.Optimizer", "training.schedules.Schedule"}


# A file or folder of the package, as the texts name it: `engine/tile`, `layers/cuda/`, `numbarnn/kernels.py`.
SOURCE = re.compile(
    r"`(?:numbarnn/)?((?:jit|cells|engine|sequences|layers|training|models)/[\w/]*(?:\.py)?)`"
)


def pages() -> list[Path]:
    written = [path for path in DOCS.rglob("*.md") if not set(path.relative_to(DOCS).parts) & set(BUILT)]
    return [ROOT / "README.md", *sorted(written)]


def python_blocks(text: str) -> list[tuple[int, str]]:
    """The code of a page, and the line of the page that each block begins after."""
    return [(text[: found.start(1)].count("\n"), found[1]) for found in PYTHON_BLOCK.finditer(text)]


def run_page(text: str, name: str) -> None:
    """Run all blocks of a page one after the other, as a reader would in one session."""
    session: dict[str, object] = {"__name__": "page"}
    for line, code in python_blocks(text):
        exec(compile("\n" * line + code, name, "exec"), session)


WITH_CODE = [page for page in pages() if python_blocks(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page):
    threads = numbarnn.get_num_threads()
    run_page(page.read_text(encoding="utf-8"), str(page))
    assert numbarnn.get_num_threads() == threads


def test_pages_with_code_are_found():
    names = {str(page.relative_to(ROOT)) for page in WITH_CODE}
    assert {"README.md", "docs/tour.md", "docs/howto/streaming.md", "docs/theory/backpropagation.md"} <= names


def test_an_error_in_a_page_is_an_error_of_its_line():
    with pytest.raises(ZeroDivisionError) as raised:
        run_page("# Title\n\n```python\na = 0\n```\n\ntext\n\n```python\n1 / a\n```\n", "page.md")
    assert raised.traceback[-1].lineno + 1 == 10


def listed_names(text: str) -> set[str]:
    """What the autosummary directives of a page list."""
    return {
        line.strip()
        for found in AUTOSUMMARY.finditer(text)
        for line in found[1].splitlines()
        if line.strip() and not line.strip().startswith(":")
    }


def listed_by(page: str) -> set[str]:
    return listed_names((DOCS / "reference" / page).read_text(encoding="utf-8"))


def test_the_reference_lists_every_public_name_and_no_other():
    modules = {"datasets", "kernels"}  # pages of their own
    listed = set().union(*map(listed_by, ("layers.md", "models.md", "training.md", "machine.md")))
    assert listed - BASE_CLASSES == set(numbarnn.__all__) - modules - {"__version__"}
    assert BASE_CLASSES <= listed
    assert listed_by("kernels.md") == set(numbarnn.kernels.__all__)
    assert listed_by("datasets.md") == set(numbarnn.datasets.__all__)


def test_names_are_read_from_a_page():
    page = "text\n\n.. autosummary::\n   :toctree: generated\n\n   LSTM\n   GRU\n\nmore\n\n   Dense\n"
    assert listed_names(page) == {"LSTM", "GRU"}


def test_pages_name_files_that_exist():
    """Figures of the drawing script, and pages that the lists of contents name."""
    drawn = set(re.findall(r"^def (\w+)\(\) -> Sheet", (DOCS / "figures/draw.py").read_text(), re.MULTILINE))
    shown = {
        name
        for page in pages()
        for name in re.findall(r"figures/(\w+)\.svg", page.read_text(encoding="utf-8"))
    }
    assert shown == drawn


def test_files_of_the_package_that_pages_name_exist():
    texts = [path.read_text(encoding="utf-8") for path in (*pages(), ROOT / "CONTRIBUTING.md")]
    named = {name for text in texts for name in SOURCE.findall(text)}
    package = ROOT / "numbarnn"
    missing = {
        name
        for name in named
        if not (package / name).exists() and not (package / f"{name.rstrip('/')}.py").exists()
    }
    assert missing == set()


@pytest.fixture(scope="module")
def check_site():
    spec = importlib.util.spec_from_file_location("check_site", DOCS / "check_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ('<script defer src="https://example.org/a.js"></script>', ".html"),
        ('<link rel="stylesheet" href="//example.org/a.css"/>', ".html"),
        ('<link rel="preload" as="font" href="http://example.org/a.woff2">', ".html"),
        ('<img src="https://example.org/a.png">', ".html"),
        ('<p style="background: url(https://example.org/a.png)">', ".html"),
        ('@import "https://example.org/a.css";', ".css"),
        ("@font-face { src: url('//example.org/a.woff2') }", ".css"),
    ],
)
def test_a_load_from_the_network_is_found(check_site, text, suffix):
    assert len(check_site.remote_loads(text, suffix)) == 1


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ('<a href="https://example.org">a link</a><script src="_static/a.js"></script>', ".html"),
        ('<link rel="canonical" href="https://example.org/"><img src="a.svg">', ".html"),
        ("/* https://example.org */ @font-face { src: url(a.woff2) }", ".css"),
    ],
)
def test_links_and_files_of_the_site_are_let_through(check_site, text, suffix):
    assert check_site.remote_loads(text, suffix) == []
