"""The pages of docs/: every block runs, what they say is printed is printed, and every link leads somewhere."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

# pytest's importlib mode imports test files without putting their folder on the path.
sys.path.insert(0, str(Path(__file__).parent))

from pages import OPTIONAL, Result, blocks, installed, run_page, shortened

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

CONVERT, DENOISE = "convert-pytorch-weights.md", "denoise-a-folder.md"
LAYER, TRAIN = "write-your-own-layer.md", "train-on-your-images.md"
PAGES = (CONVERT, DENOISE, LAYER, TRAIN)
WITHOUT_CODE = ("reliability.md",)

# What takes longer on the page than a test may, and what is run in its place; nothing else is changed.
SHORTER = {"--time 10m": "--time 0.2s", "seconds=600": "seconds=0.2"}

# Blocks that run everywhere, blocks that need a package, and outputs that are compared: without packages, and with all.
# Whoever adds a block to a page counts it here.
COUNTS = {
    CONVERT: (8, {"torch": 2, "onnx": 1}, 3, 5),
    DENOISE: (12, {}, 2, 2),
    LAYER: (6, {}, 4, 4),
    TRAIN: (11, {}, 2, 2),
}


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def ran_and_compared(result: Result) -> tuple[int, int]:
    return len(result.ran), len(result.compared)


# ---- the pages ----
@pytest.mark.cpu  # they train, which is too slow on a simulated GPU
@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_pictures: None) -> None:
    for extra in ("PIL", "tifffile", "matplotlib"):  # of the extra `app`, which the pages tell their readers to install
        if name != LAYER:
            pytest.importorskip(extra)
    everywhere, needing, plain, full = COUNTS[name]
    available = installed()
    text, _ = shortened(read(name), SHORTER)
    monkeypatch.chdir(tmp_path)
    result = run_page(name, text, available)
    assert len(result.ran) == everywhere + sum(n for package, n in needing.items() if package in available)
    assert len(result.left_out) == sum(n for package, n in needing.items() if package not in available)
    if set(needing) <= available:
        assert len(result.compared) == full
    assert plain <= len(result.compared) <= full


def test_the_layer_of_one_s_own_on_any_backend() -> None:
    before, heading, _ = read(LAYER).partition("## Use it and store it")
    assert heading
    assert ran_and_compared(run_page(LAYER, before, set())) == (3, 2)


@pytest.mark.cpu
def test_a_page_without_its_optional_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    everywhere, needing, plain, _ = COUNTS[CONVERT]
    monkeypatch.chdir(tmp_path)
    result = run_page(CONVERT, read(CONVERT), set())  # so no other block may use what those have made
    assert ran_and_compared(result) == (everywhere, plain)
    assert len(result.left_out) == sum(needing.values())


@pytest.mark.parametrize("name", PAGES)
def test_blocks_are_counted(name: str) -> None:
    found = blocks(name, read(name))
    needs = Counter(package for block in found for package in block.needs)
    everywhere = sum(block.kind != "text" and not block.needs for block in found)
    assert (everywhere, dict(needs), sum(block.is_output for block in found)) == (
        COUNTS[name][0], COUNTS[name][1], COUNTS[name][3],
    )  # fmt: skip
    assert set(needs) <= set(OPTIONAL)


def test_all_pages_are_run() -> None:
    assert sorted(path.name for path in DOCS.iterdir()) == sorted((*PAGES, *WITHOUT_CODE))
    assert not any(blocks(name, read(name)) for name in WITHOUT_CODE)


def test_every_replacement_is_needed() -> None:
    found = set().union(*(shortened(read(name), SHORTER)[1] for name in PAGES))
    assert found == set(SHORTER)


# ---- links ----
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    """What the links outside of code lead to."""
    return [first or second for first, second in LINK.findall(FENCED.sub("", text))]


def is_broken(link: str, file: Path) -> bool:
    """Whether a link of `file` leads to no file, or to no heading of a page."""
    if re.match(r"[a-z]+:", link):
        return False  # elsewhere
    place, _, heading = link.partition("#")
    target = file.parent / place if place else file
    if not target.exists():
        return True
    return bool(heading) and heading not in headings(target.read_text(encoding="utf-8"))


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("file", [ROOT / "README.md", *(DOCS / name for name in PAGES)], ids=lambda path: path.name)
def test_links(file: Path) -> None:
    broken = [link for link in links(file.read_text(encoding="utf-8")) if is_broken(link, file)]
    assert not broken, f"{file.name} links to what is not there: {broken}"


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading: here\n[a](page.md) [b](page.md#a-heading-here) [c](https://a.b/c.md) [d](none.md)\n"
        '[e](#nowhere) <img src="none.png"> \n```text\n[f](not-a-link.md)\n```\n',
        encoding="utf-8",
    )
    found = links(page.read_text(encoding="utf-8"))
    assert len(found) == 6
    assert [link for link in found if is_broken(link, page)] == ["none.md", "#nowhere", "none.png"]
