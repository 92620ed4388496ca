"""What runs the pages finds what is wrong on them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pages import PageError, blocks, run_page, shortened

LAYER = Path(__file__).parents[2] / "docs" / "write-your-own-layer.md"


def page(*fenced: tuple[str, str]) -> str:
    """A page of blocks: (what stands after the fence, the text)."""
    return "# A page\n\n" + "\n\nwords\n\n".join(f"```{words}\n{text}\n```" for words, text in fenced)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.cpu  # some of these train before they come to the wrong line
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(grad * xp.minimum(x, 0)).sum(axis=(0, 2, 3))", "(grad * xp.minimum(x, 0)).sum(axis=(0, 3, 2)) * 2"),
        ("npconv.check_module(PReLU(3), x)", "npconv.check_modul(PReLU(3), x)"),
        ("again = npconv.Model.load", "npconv.Model.load"),
        ("Careless: the gradient of slopes", "Careless: the gradient of weight"),
        ('model.save("prelu.h5")', 'model.save("other.h5")'),
    ],
)
def test_a_wrong_line_on_a_real_page(right: str, wrong: str) -> None:
    text = LAYER.read_text(encoding="utf-8")
    assert text.count(right) == 1
    with pytest.raises(PageError, match=LAYER.name):
        run_page(LAYER.name, text.replace(right, wrong), set())


def test_what_a_page_does() -> None:
    text = page(
        ("python", "x = 2\nprint(x, 'and 0.123 s')"),
        ("text output", "2 and ... s"),
        ("text", "not run"),
        ("console", "npconv --version  # a comment\n\n# another\nnpconv \\\n  info"),
        ("python", "assert x == 2\nfrom pathlib import Path\nPath('made').touch()"),
        ("console fails", "npconv denoise nowhere.png"),
        ("text output", "npconv denoise: error: there is no image file or folder 'nowhere.png'"),
    )
    result = run_page("page.md", text, set())
    assert (result.ran, result.compared, result.left_out) == ([4, 23, 33, 41], [11, 47], [])
    assert Path("made").exists()


@pytest.mark.parametrize(
    ("blocks_of_it", "message"),
    [
        ([("python", "x = 1\nx = y")], r"page\.md, line 4 .*NameError"),
        ([("python", "x = (")], "SyntaxError"),
        ([("python", "import warnings\nwarnings.warn('old', DeprecationWarning)")], "old"),
        ([("python", "print(1)"), ("text output", "2")], r"page\.md, line 10 .*printed\n\n1\n"),
        ([("python", "print('one two')"), ("text output", "one")], "one two"),
        ([("console", "npconv info --nonsense")], "ended with 2:\n(.|\n)*--nonsense"),
        ([("console", "npconv info\nnpconv denoise nowhere.png")], "ended with 2"),
        ([("console fails", "npconv info")], "ended with 0"),
        ([("console", "rm everything")], "'rm everything' is no command of npconv's"),
        ([("pyhton", "x = 1")], "no kind of block"),
        ([("", "x = 1")], "no kind of block"),
        ([("python toch", "x = 1")], "no kind of block"),
        ([("text output", "1")], "no block before it"),
        ([("python", ""), ("text", ""), ("text output", "")], "no block before it"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_wrong_pages(blocks_of_it: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(PageError, match=f"(?s){message}"):
        run_page("page.md", page(*blocks_of_it), set())


def test_a_block_that_is_not_closed() -> None:
    with pytest.raises(PageError, match=r"page\.md, line 2: this block is not closed"):
        blocks("page.md", "words\n```python\nx = 1\n")


def test_blocks_that_need_a_package() -> None:
    text = page(
        ("python", "print(1)"), ("python torch", "print(2)"), ("text output", "2"), ("console onnx", "npconv info")
    )
    result = run_page("page.md", text, set())
    assert (result.ran, result.compared, result.left_out) == ([4], [], [10, 22])
    result = run_page("page.md", text, {"torch"})
    assert (result.ran, result.compared, result.left_out) == ([4, 10], [16], [22])
    with pytest.raises(PageError, match="printed"):
        run_page("page.md", text.replace("print(2)", "print(3)"), {"torch"})


def test_files_by_a_pattern() -> None:
    for name in "ba":
        Path(f"{name}.png").write_text("no picture")
    with pytest.raises(PageError, match=r"npconv denoise a\.png b\.png"):
        run_page("page.md", page(("console", "npconv denoise *.png")), set())


def test_shortened() -> None:
    assert shortened("a --time 10m, a", {"--time 10m": "--time 1s", "seconds=9": ""}) == (
        "a --time 1s, a",
        {"--time 10m"},
    )
