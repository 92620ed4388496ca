"""draw: a network as a picture, the way a report shows it.

    trace -> blocks (a box, a row of them, branches, a frame), each knowing its size -> painted from the top

Lengths are in inches, x to the right and y down, on axes that fill the page; so text has its true size. A
block is entered from above and left below on its `axis`, the x of the line that runs through it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import layers
from .containers import Concat, Identity, Parallel, Sequential, Sum
from .extras import require
from .module import Module
from .tracing import Node, Shape, describe, trace

ENDINGS = (".png", ".pdf", ".svg")
FAMILIES: tuple[tuple[tuple[type[Module], ...], str], ...] = (
    ((layers.Conv2d,), "#cfe0f5"),
    ((layers.ConvTranspose2d, layers.Upsampling, layers.UpsamplingNearest2d, layers.PixelShuffle), "#cdebd9"),
    ((layers.MaxPool2d, layers.AvgPool2d), "#fbdcc4"),
    ((layers.Activation,), "#fbf1bf"),
    ((layers.BatchNorm2d, layers.Dropout), "#e5d9f2"),
    ((layers.Linear,), "#f7d0d6"),
)
JOINS = ((Sum, "+"), (Concat, "concatenate"))
OTHER_COLOUR, INK, FAINT = "#ececec", "#222222", "#6a6a6a"
FONT = "DejaVu Sans"  # comes with matplotlib
FRAMES = ("#ffffff", "#f8f9fa")  # of containers, by turns

TITLE, LABEL = 9.0, 7.5  # points
GAP = 0.40  # between two boxes, where the arrow and its shape are
PAD = 0.10  # between a box and its text
LINE = 0.165  # from one line of text to the next
MARGIN = 0.30  # around the page
FORK = 0.16  # from the entry of branches to where they part
RISE = 0.24  # from where branches part to their first box, and from the last to where they join
FRAME_PAD, FRAME_HEAD = 0.16, 0.30
TALLEST = 9.5  # a longer row of layers is laid out in columns
DPI, LARGEST = 200, 30_000  # pixels along a side


@dataclass(frozen=True)
class Block:
    """A part of the picture: size, axis, and how to paint it with its top left corner at (x, y)."""

    width: float
    height: float
    axis: float
    paint: Callable[[Page, float, float], None]


def draw(network: Module, input_shape: Sequence[int], path: str | os.PathLike[str]) -> None:
    """Draw `network`, as it treats an input of `input_shape`, into the file `path`.

    A box per layer, coloured by family, with its arguments and parameters; frames around containers; branches
    side by side; the shape of what flows (C x H x W, without the batch) at every arrow. A module of one's
    own is one box.

    Args:
        network: any Module; it stays as it is.
        input_shape: (C, H, W) or (N, C, H, W).
        path: its ending says what is written: .png (200 dots per inch), .pdf or .svg.

    Raises ValueError for another ending, FileNotFoundError for a folder that does not exist, what `summary`
    raises for the rest, and ImportError without matplotlib.
    """
    place = _checked(path)
    root = trace(network, input_shape)[0]
    require("matplotlib.figure")
    body = _with_ends(root)
    title, head = f"{type(network).__name__}: {_parameters(root)}, {_work(root)}", 0.32
    width = max(body.width, _text_width(title, TITLE, bold=True)) + 2 * MARGIN
    page = Page(width, body.height + head + 2 * MARGIN)
    page.text(width / 2, MARGIN + 0.08, title, TITLE, bold=True)
    body.paint(page, (width - body.width) / 2, MARGIN + head)
    page.save(place)


def _checked(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path (={path!r}) must be the name of a file")
    place = Path(path)
    if place.suffix.lower() not in ENDINGS:
        raise ValueError(f"path (={str(place)!r}) must end in one of {', '.join(ENDINGS)}")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"path (={str(place)!r}) must be in a folder that exists")
    return place


class Page:
    """A matplotlib figure, measured in inches from its top left corner."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), frameon=False)
        self.axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])

    def text(self, x: float, y: float, text: str, size: float, colour: str = INK, **options: Any) -> None:
        """One line of text, its middle at (x, y); `bold`, or with its beginning there: `left`."""
        self.axes.text(
            x,
            y,
            text,
            fontsize=size,
            fontfamily=FONT,
            fontweight="bold" if options.get("bold") else "normal",
            color=colour,
            ha="left" if options.get("left") else "center",
            va="center_baseline",
            parse_math=False,
            zorder=4,
        )

    def box(self, x: float, y: float, width: float, height: float, colour: str, frame: bool = False) -> None:
        """A rectangle with round corners; a frame is faint, and lies under what is painted later."""
        from matplotlib.patches import FancyBboxPatch

        rounding = 0.05
        shape = FancyBboxPatch(
            (x + rounding, y + rounding),
            width - 2 * rounding,
            height - 2 * rounding,
            boxstyle=f"round,pad={rounding}",
            facecolor=colour,
            edgecolor="#b5bcc4" if frame else "#4a4a4a",
            linewidth=0.7 if frame else 0.8,
            zorder=1 if frame else 3,
        )
        self.axes.add_patch(shape)

    def line(self, points: Sequence[tuple[float, float]], arrow: bool = False) -> None:
        """A line through the points (x, y), with an arrow head at the last."""
        points = list(points)
        if arrow:
            points[-1] = self._head(*points[-2:])
        x, y = zip(*points, strict=True)
        self.axes.plot(x, y, color=INK, linewidth=0.9, zorder=2, solid_capstyle="projecting")

    def _head(self, start: tuple[float, float], tip: tuple[float, float]) -> tuple[float, float]:
        """An arrow head; returns the middle of its base, where the line ends."""
        x, y = tip
        length = math.dist(start, tip) or 1.0
        dx, dy = 0.075 * (x - start[0]) / length, 0.075 * (y - start[1]) / length
        corners = [tip, (x - dx - dy / 2, y - dy + dx / 2), (x - dx + dy / 2, y - dy - dx / 2)]
        self.axes.fill(*zip(*corners, strict=True), color=INK, linewidth=0, zorder=3)
        return x - dx, y - dy

    def save(self, place: Path) -> None:
        """Write the figure as the ending says; a very large one with fewer dots per inch."""
        dpi = min(DPI, LARGEST / max(self.figure.get_size_inches()))
        self.figure.savefig(place, format=place.suffix[1:].lower(), dpi=dpi)


# ---- blocks ----
def _block(node: Node) -> Block:
    """A module as a block; one of one's own is a box, as what it does with what is inside is not known."""
    if isinstance(node.module, Sequential) and node.children:
        return _framed(_row(node.children), _title(node), node.depth)
    if isinstance(node.module, Parallel):
        return _framed(_branches(node), _title(node), node.depth)
    return _box(node)


def _box(node: Node) -> Block:
    """A layer: its class, its arguments, its parameters, a line each."""
    arguments = describe(node.module) if not node.children else f"{len(node.children)} modules inside"
    lines = [(_title(node), TITLE, True, INK)]
    lines += [(line, LABEL, False, INK) for line in _wrapped(arguments)]
    lines += [(_parameters(node), LABEL, False, FAINT)] if node.parameters else []
    width = max(1.0, *(_text_width(text, size, bold) for text, size, bold, _ in lines)) + 2 * PAD
    height = LINE * len(lines) + 1.3 * PAD

    def paint(page: Page, x: float, y: float) -> None:
        page.box(x, y, width, height, _colour(node.module))
        for index, (text, size, bold, colour) in enumerate(lines):
            page.text(x + width / 2, y + 0.65 * PAD + LINE * (index + 0.5), text, size, colour, bold=bold)

    return Block(width, height, width / 2, paint)


def _wrapped(text: str, longest: int = 40) -> list[str]:
    """A list of arguments as lines, broken after commas."""
    lines: list[str] = []
    for part in text.split(", ") if text else []:
        if lines and len(lines[-1]) + 2 + len(part) <= longest:
            lines[-1] += f", {part}"
        else:
            lines[-1:] = [*(line + "," for line in lines[-1:]), part]
    return lines


def _row(nodes: Sequence[Node]) -> Block:
    """Modules one below the other, with arrows between them and the shape at each."""
    blocks = [_block(node) for node in nodes]
    labels = [_shape(node.output_shape) for node in nodes[:-1]]
    axis = max(block.axis for block in blocks)
    right = max([block.width - block.axis for block in blocks] + [_label_width(label) for label in labels])
    height = sum(block.height for block in blocks) + GAP * len(labels)

    def paint(page: Page, x: float, y: float) -> None:
        centre = x + axis
        for block, label in zip(blocks, [*labels, None], strict=True):
            block.paint(page, centre - block.axis, y)
            y += block.height
            if label is not None:
                _arrow(page, centre, y, y + GAP, label)
                y += GAP

    return Block(axis + right, height, axis, paint)


def _branches(node: Node) -> Block:
    """Branches side by side, from where they part to where they are joined."""
    blocks = [_branch(child) for child in node.children]
    labels = [_shape(child.output_shape) for child in node.children]
    join = next((word for kind, word in JOINS if isinstance(node.module, kind)), "join")
    half = max(0.13, _text_width(join, LABEL) / 2 + 0.08)
    axes, width = _side_by_side(blocks, labels)
    axis = _main_axis(axes, [block.height for block in blocks])
    shift = max(0.0, half - axis)
    join_y = FORK + RISE + max(block.height for block in blocks) + GAP + 0.12

    def paint(page: Page, x: float, y: float) -> None:
        x += shift
        centre, fork, top, joined = x + axis, y + FORK, y + FORK + RISE, y + join_y
        page.line([(centre, y), (centre, fork)])
        for block, label, own in zip(blocks, labels, axes, strict=True):
            page.line([(centre, fork), (x + own, fork), (x + own, top)], arrow=block.height > 0)
            block.paint(page, x + own - block.axis, top)
            page.text(x + own + 0.07, joined - 0.12 - GAP / 2, label, LABEL, FAINT, left=True)
            start, corner = (x + own, top + block.height), (x + own, joined)
            if abs(own - axis) > half:
                page.line([start, corner, (centre + math.copysign(half, own - axis), joined)], arrow=True)
            else:
                page.line([start, (x + own, joined - 0.12)], arrow=True)
        page.box(centre - half, joined - 0.12, 2 * half, 0.24, "#ffffff")
        page.text(centre, joined, join, LABEL)

    return Block(shift + max(width, axis + half), join_y + 0.12, shift + axis, paint)


def _branch(node: Node) -> Block:
    """A branch; that of a skip connection is a line only, which its neighbours' height makes as long."""
    if isinstance(node.module, Identity):
        return Block(0.0, 0.0, 0.0, lambda page, x, y: None)
    return _block(node)


def _side_by_side(blocks: list[Block], labels: list[str]) -> tuple[list[float], float]:
    """The x of each block's axis, and the width of all."""
    axes, right = [], -0.22
    for block, label in zip(blocks, labels, strict=True):
        axes.append(right + 0.22 + block.axis)
        right = axes[-1] + max(block.width - block.axis, _label_width(label))
    return axes, right


def _main_axis(axes: list[float], heights: list[float]) -> float:
    """Where branches part and join: at the tallest; of several, in the middle or at a branch close to it."""
    tallest = [axis for axis, height in zip(axes, heights, strict=True) if height == max(heights)]
    if len(tallest) == 1:
        return tallest[0]
    middle = (axes[0] + axes[-1]) / 2
    nearest = min(axes, key=lambda axis: abs(axis - middle))
    return nearest if abs(nearest - middle) < 0.35 else middle


def _framed(block: Block, label: str, depth: int) -> Block:
    """A frame with its label at the top left; wide enough for the line to pass beside the label."""
    if depth == 0:
        return block
    left = max(FRAME_PAD, _text_width(label, LABEL, bold=True) + 2 * PAD - block.axis)
    width, height = left + block.width + FRAME_PAD, FRAME_HEAD + block.height + FRAME_PAD
    axis = left + block.axis

    def paint(page: Page, x: float, y: float) -> None:
        page.box(x, y, width, height, FRAMES[depth % 2], frame=True)
        page.text(x + PAD, y + 0.13, label, LABEL, FAINT, bold=True, left=True)
        page.line([(x + axis, y), (x + axis, y + FRAME_HEAD)])
        block.paint(page, x + left, y + FRAME_HEAD)
        page.line([(x + axis, y + FRAME_HEAD + block.height), (x + axis, y + height)])

    return Block(width, height, axis, paint)


# ---- the whole page ----
def _with_ends(root: Node) -> Block:
    """The network between its input and its output; a long one in columns."""
    first, last = f"input {_shape(root.input_shape)}", f"output {_shape(root.output_shape)}"
    columns = _columns(root)
    tallest = max(block.height for block, _ in columns)
    widths = [max(block.width, block.axis + _label_width(label)) for block, label in columns]
    half = max(_text_width(first, LABEL), _text_width(last, LABEL)) / 2
    shift = max(0.0, half - columns[0][0].axis)
    gutter, top = 0.55, 0.20 + GAP
    width = shift + sum(widths) + gutter * (len(columns) - 1)
    width = max(width, width - widths[-1] + columns[-1][0].axis + half)

    def paint(page: Page, x: float, y: float) -> None:
        x += shift
        page.text(x + columns[0][0].axis, y + 0.08, first, LABEL, bold=True)
        page.line([(x + columns[0][0].axis, y + 0.20), (x + columns[0][0].axis, y + top)], arrow=True)
        for index, (block, label) in enumerate(columns):
            block.paint(page, x, y + top)
            centre, bottom = x + block.axis, y + top + block.height
            if index + 1 == len(columns):
                page.line([(centre, bottom), (centre, bottom + GAP)], arrow=True)
                page.text(centre, bottom + GAP + 0.12, last, LABEL, bold=True)
                break
            turn, low = x + widths[index] + gutter / 2, y + top + tallest + GAP
            page.text(centre + 0.07, bottom + GAP / 2, label, LABEL, FAINT, left=True)
            x += widths[index] + gutter
            high, following = y + 0.20, x + columns[index + 1][0].axis
            down_and_up = [(centre, bottom), (centre, low), (turn, low), (turn, high)]
            page.line([*down_and_up, (following, high), (following, y + top)], arrow=True)

    return Block(width, top + tallest + GAP + 0.24, shift + columns[0][0].axis, paint)


def _columns(root: Node) -> list[tuple[Block, str]]:
    """The network as one block, or as several about as high; each with the shape that leaves it."""
    whole = _block(root)
    nodes = root.children
    if whole.height <= TALLEST or not isinstance(root.module, Sequential) or len(nodes) < 2:
        return [(whole, _shape(root.output_shape))]
    count = max(2, round(math.sqrt(whole.height / (1.3 * (whole.width + 0.55)))))
    heights = [_block(node).height + GAP for node in nodes]
    columns: list[list[Node]] = [[]]
    filled = 0.0
    for node, height in zip(nodes, heights, strict=True):
        if columns[-1] and filled + height / 2 > sum(heights) * len(columns) / count:
            columns.append([])
        columns[-1].append(node)
        filled += height
    laid_out = [(_row(column), _shape(column[-1].output_shape)) for column in columns]
    if max(block.height for block, _ in laid_out) > 0.75 * whole.height:  # one part is nearly all of it
        return [(whole, _shape(root.output_shape))]
    return laid_out


# ---- words and measures ----
def _title(node: Node) -> str:
    kind, name = type(node.module).__name__, node.name.rpartition(".")[2]
    return kind if not name or name.isdecimal() else f"{name}: {kind}"


def _colour(module: Module) -> str:
    return next((colour for kinds, colour in FAMILIES if isinstance(module, kinds)), OTHER_COLOUR)


def _shape(shape: Shape | None) -> str:
    return "?" if shape is None else " × ".join(map(str, shape[1:]))


def _parameters(node: Node) -> str:
    return f"{node.parameters:,} parameter{'' if node.parameters == 1 else 's'}"


def _work(node: Node) -> str:
    amount = float(node.multiply_adds or 0)
    power = min(4, max(0, (len(f"{amount:.0f}") - 1) // 3))
    unit = ("", " thousand", " million", " billion", " trillion")[power]
    return f"{amount / 1000**power:.3g}{unit} multiply-adds"


def _arrow(page: Page, x: float, top: float, bottom: float, label: str) -> None:
    page.line([(x, top), (x, bottom)], arrow=True)
    page.text(x + 0.07, (top + bottom) / 2 - 0.02, label, LABEL, FAINT, left=True)


def _label_width(label: str) -> float:
    return 0.07 + _text_width(label, LABEL) + 0.03


@lru_cache(maxsize=4096)
def _text_width(text: str, size: float, bold: bool = False) -> float:
    """The width of a line of text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(family=FONT, weight="bold" if bold else "normal", size=size)
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72
