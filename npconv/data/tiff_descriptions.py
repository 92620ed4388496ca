"""What the description of a TIFF file, in XML, would make tifffile build: lists of planes, before there is a plane.

OME:  <Pixels DimensionOrder="XYCZT" SizeX= ...> <TiffData IFD= PlaneCount=/> ...   and ranges <ModuloAlongZ Start=/>
SCN:  <pixels> <dimension c= z= ifd=/> ...

The text is read as tifffile reads it (`int` takes "+1" and "1_000" too), so that what is counted is what it would make.
"""

from __future__ import annotations

import math
from xml.etree.ElementTree import ParseError, XMLParser

from .tiff_directories import MAX_UNLIKE, Directories

MAX_PLANES = 1_000_000  # of all that a description tells, with those of smaller copies
MAX_TEXT, MAX_ELEMENTS = 32 << 20, 500_000  # characters; elements of XML, of which tifffile makes a tree
MAX_AXES = 16
_ENDINGS = ("OME>", "</scn>", "</DataObject>")  # by which tifffile knows a description in XML


def check_description(text: str, held: Directories) -> None:
    """ValueError for a description that tells of so many planes or elements that lists of them are too long."""
    if not text[-10:].strip().endswith(_ENDINGS):
        return
    if len(text) > MAX_TEXT:
        raise ValueError(f"its description has {len(text):,} characters, more than {MAX_TEXT:,}")
    found = _Planes(held)
    parser = XMLParser(target=found)
    try:
        parser.feed(text)
        parser.close()
    except (ParseError, LookupError):  # the latter of an encoding that is not known
        return  # for tifffile too
    found.end_of_pixels()


class _Planes:
    """Adds up what the elements tell, as they come: a target of `XMLParser`."""

    def __init__(self, held: Directories) -> None:
        self._areas = [max(1, area) for area in held.areas]
        self._levels = 1 + max(held.copies)
        self._elements = self._images = self._planes = 0
        self._total = 0  # values of the Pixels that are read now, or 0
        self._smallest = 0  # values of the smallest page that they name, 0 if they name none
        self._scn = [0, 0]  # the largest c and z of the pixels that are read now

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise ValueError(f"its description has more than {MAX_ELEMENTS:,} elements")
        if tag.endswith("Pixels"):
            self.end_of_pixels()
            self._images += 1
            if self._images > MAX_UNLIKE:
                raise ValueError(f"its description has more than {MAX_UNLIKE:,} images")
            order = attributes.get("DimensionOrder", "")
            if len(order) > MAX_AXES:
                raise ValueError(f"its description has {len(order):,} axes, more than {MAX_AXES}")
            sizes = [abs(_integer(attributes, "Size" + axis)) for axis in order]
            self._total = math.prod(sizes)
            self._add(math.prod(sizes[2:]))  # tifffile takes the first two for X and Y
        elif tag.endswith("TiffData"):
            first = _integer(attributes, "IFD", 0)
            count = _integer(attributes, "NumPlanes", 1 if "IFD" in attributes else 0)
            count = _integer(attributes, "PlaneCount", count) or len(self._areas)
            self._add(max(1, count))
            named = self._areas[first : first + max(0, count)] if first >= 0 else self._areas  # -1 is the last one
            if named:
                self._smallest = min(min(named), self._smallest or min(named))
        elif tag[:-1].endswith("Along") and "Start" in attributes:
            begin, end = float(attributes["Start"]), float(attributes.get("End", "nan"))
            step = float(attributes.get("Step", 1))
            steps = (end + step - begin) / step if step else math.inf
            if not steps <= MAX_PLANES:
                raise ValueError(f"its description has a range from {begin} to {end}, step {step}: too many steps")
        elif tag.endswith("pixels"):
            self._scn = [0, 0]
        elif tag.endswith("dimension"):
            ends = [abs(_integer(attributes, key, 0)) for key in "cz"]
            self._scn = [max(pair) for pair in zip(self._scn, ends, strict=True)]
            self._add((self._scn[0] + 1) * (self._scn[1] + 1))

    def end_of_pixels(self) -> None:
        """The planes of a series: as many as all its values are of those of its first page, whichever that is."""
        self._add(self._total // self._smallest if self._smallest else 0)
        self._total = self._smallest = 0

    def _add(self, planes: int) -> None:
        self._planes += planes
        if self._planes * self._levels > MAX_PLANES:
            raise ValueError(f"its description tells of {self._planes * self._levels:,} planes: at most {MAX_PLANES:,}")


def _integer(attributes: dict[str, str], name: str, default: int | None = None) -> int:
    """An attribute as tifffile reads it; ValueError for one that is no number, or is not there."""
    if name not in attributes and default is not None:
        return default
    text = attributes.get(name, "")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"its description has {name}={text[:50]!r}, which must be a whole number") from None
