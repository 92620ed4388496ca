"""draw: the files it writes, and that nothing on the page overlaps or is cut off."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

import npconv as nc
from npconv import drawing, networks

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch


def u_net(channels: int, depth: int) -> nc.Module:
    down = [nc.MaxPool2d(2), nc.Conv2d(channels, 2 * channels, 3, padding=1), nc.ReLU()]
    if depth > 1:
        down += [u_net(2 * channels, depth - 1), nc.Conv2d(4 * channels, 2 * channels, 3, padding=1)]
    return nc.Concat(nc.Identity(), nc.Sequential(*down, nc.Upsampling(2 * channels, channels, 4, 2, 1)))


def wide() -> nc.Sequential:
    return nc.Sequential(
        {
            "first": nc.Conv2d(3, 6, (3, 5), stride=(1, 2), padding=(1, 2), padding_mode="circular", bias=False),
            "several": nc.Concat(nc.Conv2d(6, 2, 1), nc.Tanh(), nc.Sequential(nc.BatchNorm2d(6), nc.LeakyReLU(0.2))),
            "both": nc.Sum(nc.Conv2d(14, 4, 1), nc.Conv2d(14, 4, 3, padding="same")),
            "shuffle": nc.PixelShuffle(2),
            "flat": nc.Flatten(),
            "name with $money_{1}$": nc.Linear(32 * 16, 2),
        }
    )


NETWORKS: dict[str, tuple[nc.Module, tuple[int, ...]]] = {
    "strided": (networks.strided(), (3, 32, 32)),
    "residual": (
        nc.Sequential(nc.Conv2d(3, 4, 1), nc.Sum(nc.Identity(), nc.Sequential(nc.ReLU()))),
        (3, 8, 8),
    ),
    "u-net": (nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), u_net(4, 2), nc.Conv2d(8, 3, 1)), (2, 3, 16, 16)),
    "single": (nc.Conv2d(3, 8, 3), (3, 9, 9)),
    "branches only": (nc.Concat(nc.Identity(), nc.ReLU()), (3, 4, 4)),
    "long": (
        nc.Sequential(*(m for _ in range(10) for m in (nc.Conv2d(3, 3, 3, padding=1), nc.ReLU()))),
        (3, 8, 8),
    ),
    "very long": (nc.Sequential(*(nc.Conv2d(3, 3, 1) for _ in range(80))), (3, 8, 8)),
    "wide": (wide(), (3, 16, 16)),
    "empty": (nc.Sequential(), (3, 4, 4)),
}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Draws, and gives the page instead of a file."""

    def drawn(network: nc.Module, shape: tuple[int, ...]) -> drawing.Page:
        pages: list[drawing.Page] = []
        monkeypatch.setattr(drawing.Page, "save", lambda self, place: pages.append(self))
        nc.draw(network, shape, tmp_path / "net.png")
        FigureCanvasAgg(pages[0].figure).draw()
        return pages[0]

    return drawn


def extents(page: drawing.Page) -> list[tuple[str, Any]]:
    return [(text.get_text(), text.get_window_extent()) for text in page.axes.texts]


def texts(page: drawing.Page) -> list[str]:
    return [text for text, _ in extents(page)]


# ---- files ----
def test_png_has_200_dots_per_inch(tmp_path: Path) -> None:
    path = tmp_path / "net.png"
    nc.draw(networks.strided(), (3, 32, 32), path)
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert 600 < width < 1600 < height < 2400


def test_pdf_and_svg_and_endings_in_capitals(tmp_path: Path) -> None:
    for name, start in (("net.pdf", b"%PDF"), ("net.svg", b"<?xml"), ("NET.PNG", b"\x89PNG")):
        nc.draw(networks.strided(), (3, 32, 32), str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(start)
    svg = (tmp_path / "net.svg").read_text(encoding="utf-8")
    for text in ("Upsampling", "3, 32, 3, stride=2, padding=1", "9,248 parameters", "32 × 8 × 8"):
        assert f"<!-- {text} -->" in svg


def test_a_wrong_call_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"net\.gif'\) must end in one of \.png, \.pdf, \.svg"):
        nc.draw(networks.strided(), (3, 32, 32), tmp_path / "net.gif")
    with pytest.raises(ValueError, match=r"in_channels \(=3\)"):
        nc.draw(networks.strided(), (4, 32, 32), tmp_path / "net.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pictures need matplotlib: pip install "npconv\[app\]"'):
        nc.draw(networks.strided(), (3, 32, 32), tmp_path / "net.png")


def test_pyplot_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would raise
    nc.draw(networks.strided(), (3, 32, 32), tmp_path / "net.png")
    assert (tmp_path / "net.png").stat().st_size > 1000


# ---- the page ----
@pytest.mark.parametrize("name", NETWORKS)
def test_no_text_overlaps_another_or_leaves_the_page(name: str, page: Any) -> None:
    drawn = page(*NETWORKS[name])
    width, height = drawn.figure.bbox.size
    found = extents(drawn)
    for i, (text, box) in enumerate(found):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
        for other, other_box in found[i + 1 :]:
            assert not box.overlaps(other_box), (text, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_stay_apart_or_inside_each_other_and_hold_their_text(name: str, page: Any) -> None:
    drawn = page(*NETWORKS[name])
    found = extents(drawn)
    boxes = [p.get_window_extent() for p in drawn.axes.patches if isinstance(p, FancyBboxPatch)]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert not a.overlaps(b) or inside(a, b) or inside(b, a)
        for text, box in found:
            assert not box.overlaps(a) or inside(box, a), text


def inside(a: Any, b: Any) -> bool:
    return b.x0 <= a.x0 and b.y0 <= a.y0 and a.x1 <= b.x1 and a.y1 <= b.y1


@pytest.mark.parametrize("name", NETWORKS)
def test_no_line_runs_through_a_text(name: str, page: Any) -> None:
    drawn = page(*NETWORKS[name])
    found = extents(drawn)
    for line in drawn.axes.lines:
        points = drawn.axes.transData.transform(line.get_xydata())
        for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
            for text, box in found:
                across = min(x0, x1) <= box.x1 and max(x0, x1) >= box.x0
                assert not (across and min(y0, y1) <= box.y1 and max(y0, y1) >= box.y0), text


def test_the_words_on_the_page(page: Any) -> None:
    words = texts(page(networks.strided(), (5, 3, 32, 32)))
    assert words[0] == "Sequential: 20,259 parameters, 20.3 million multiply-adds"
    assert words.count("ReLU") == 3 and words.count("Conv2d") == 2 and words.count("9,248 parameters") == 2
    assert words[1:3] == ["input 3 × 32 × 32", "Conv2d"] and words[-1] == "output 3 × 32 × 32"
    assert words.count("32 × 16 × 16") == 4 and words.count("32 × 8 × 8") == 2


def test_names_given_by_the_user_and_joins_are_shown(page: Any) -> None:
    words = texts(page(*NETWORKS["wide"]))
    for word in (
        "first: Conv2d",
        "several: Concat",
        "both: Sum",
        "name with $money_{1}$: Linear",
        "concatenate",
        "+",
    ):
        assert word in words


def test_branches_stand_side_by_side(page: Any) -> None:
    drawn = page(nc.Sum(nc.Conv2d(3, 2, 1), nc.Conv2d(3, 2, 3, padding=1)), (3, 4, 4))
    first, second = (box for text, box in extents(drawn) if text == "Conv2d")
    assert first.y0 == pytest.approx(second.y0) and first.x1 < second.x0


def test_a_long_network_is_laid_out_in_columns(page: Any) -> None:
    drawn = page(*NETWORKS["long"])
    columns = {round(box.x0 + box.width / 2) for text, box in extents(drawn) if text == "Conv2d"}
    width, height = drawn.figure.get_size_inches()
    assert len(columns) >= 2 and height < 12 and height / width < 3


def test_colours_tell_families_apart(page: Any) -> None:
    def colour(module: nc.Module) -> str:
        return drawing._colour(module)

    families = [
        nc.Conv2d(1, 1, 1),
        nc.Upsampling(1, 1, 1),
        nc.MaxPool2d(1),
        nc.ReLU(),
        nc.BatchNorm2d(1),
        nc.Linear(1, 1),
    ]
    assert len({colour(module) for module in [*families, nc.Flatten()]}) == 7
    assert colour(nc.ReLU()) == colour(nc.Sigmoid()) and colour(nc.MaxPool2d(2)) == colour(nc.AvgPool2d(2))


def test_a_module_of_ones_own_is_one_box(page: Any) -> None:
    class Own(nc.Module):
        def __init__(self) -> None:
            self.a, self.b = nc.Conv2d(3, 3, 1), nc.Conv2d(3, 3, 1)

        def forward(self, x: Any) -> Any:
            return self.a(x) * self.b(x)

        def backward(self, grad_output: Any) -> Any:
            return grad_output

    words = texts(page(nc.Sequential(Own(), nc.ReLU()), (3, 4, 4)))
    assert words[2:5] == ["Own", "2 modules inside", "24 parameters"] and "Conv2d" not in words


def test_arguments_are_wrapped_after_commas() -> None:
    lines = drawing._wrapped("3, 16, 5, stride=2, padding=2, dilation=3, padding_mode='reflect'")
    assert len(lines) > 1 and max(map(len, lines)) <= 41
    assert re.sub(r"\s+", " ", " ".join(lines)) == "3, 16, 5, stride=2, padding=2, dilation=3, padding_mode='reflect'"
