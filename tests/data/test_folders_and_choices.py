"""What a folder is searched for, what may be said of a file, names and notes at their limits, and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from npconv.cli.files import image_files
from npconv.data import FolderPhotos, read_image, write_image
from npconv.data.headers import header
from npconv.data.opening import open_data
from npconv.data.stack_writers import new_stack
from npconv.data.stacks import open_stack
from npconv.data.values import colour_count, with_channels
from npconv.whole_file import whole_file

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def test_runs_hidden_files_and_folders_named_like_images_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "run/curves.png", "run/deep/c.png", ".hidden/d.png", "half/e.png", ".f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        write_image(tmp_path / name, pixels(1, 8, 9))
    for name in ("run/options.json", "run/history.csv", "half/history.csv"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "x.png").mkdir()
    assert FolderPhotos(tmp_path).names == ["a.png", "half/e.png", "sub/b.png"]
    assert FolderPhotos(tmp_path / "run").names == ["curves.png", "deep/c.png"]  # who names it means it
    assert image_files([str(tmp_path)]) == [tmp_path / "a.png"]
    (tmp_path / "run" / "history.csv").rename(tmp_path / "run" / "model.h5")
    assert len(FolderPhotos(tmp_path)) == 3


def test_folders_that_cannot_be_opened_are_named(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, pixels(1, 8, 9))
    scan = os.scandir

    def refused(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.warns(UserWarning, match="sub' cannot be opened .Permission denied"):
        assert FolderPhotos(tmp_path).names == ["a.png"]
    with pytest.raises(PermissionError):
        FolderPhotos(tmp_path / "sub")


def test_data_sets_in_groups_are_found(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["run/scan/raw"] = pixels(5, 8, 9)
        file["again"] = h5py.SoftLink("/nowhere")
    with open_stack(tmp_path / "a.h5") as stack, new_stack(tmp_path / "b.h5", stack) as target:
        assert stack.shape == (5, 1, 8, 9)
        place = slice(0, 5), slice(0, 8), slice(0, 9)
        target.write(*place, stack.read(*place))
    with h5py.File(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file["run/scan/raw"], pixels(5, 8, 9))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["other/mask"] = pixels(8, 9)
    with pytest.raises(ValueError, match="must have one data set, or one named 'images'; it has: other/mask, run/scan"):
        open_stack(tmp_path / "a.h5")
    with pytest.raises(ValueError, match="it has: other/mask, run/scan/raw"):
        open_data(tmp_path / "a.h5")
    with open_stack(tmp_path / "a.h5", dataset="other/mask") as stack:
        assert stack.shape == (1, 1, 8, 9)


def test_choices_that_a_format_does_not_have(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.tif", "a.npy"):
        write_image(tmp_path / name, pixels(3, 8, 9))
        with pytest.raises(ValueError, match=rf"{name}' has no data sets: dataset \(='raw'\) is for HDF5 files"):
            open_stack(tmp_path / name, dataset="raw")
    for name in ("a.png", "a.jpg"):
        with pytest.raises(ValueError, match=rf"{name}' is one picture: axes \(='HWC'\) are for TIFF, NPY and HDF5"):
            open_stack(tmp_path / name, axes="HWC")


def test_two_images_or_gray_and_alpha(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(2, 8, 9))
    with pytest.warns(UserWarning, match=r"a\.npy: .*\(2, 8, 9\) is read as gray and alpha; .* the axes \(NHW\)"):
        assert open_stack(tmp_path / "a.npy").shape == (1, 2, 8, 9)
    assert open_stack(tmp_path / "a.npy", axes="NHW").shape == (2, 1, 8, 9)


def test_headers_of_large_pictures_are_read(tmp_path: Path) -> None:
    Image.new("1", (14_000, 14_000)).save(tmp_path / "a.png")  # pillow itself refuses more than 179 million pixels
    assert header(tmp_path / "a.png") == ((14_000, 14_000), 1)
    Image.new("1", (20_001, 20_000)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png.* more than the 400,000,000"):
        header(tmp_path / "b.png")


def test_exif_data_that_a_jpeg_has_no_room_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271] = "x" * 70_000
    Image.fromarray(pixels(16, 16, 3)).save(tmp_path / "a.png", exif=exif)
    told = pytest.warns(UserWarning, match=r"b\.jpg: the EXIF data \(70,")
    with told, open_stack(tmp_path / "a.png") as stack, new_stack(tmp_path / "b.jpg", stack) as target:
        target.write(slice(0, 1), slice(0, 16), slice(0, 16), np.zeros((1, 3, 16, 16), np.uint8))
    assert read_image(tmp_path / "b.jpg").shape == (3, 16, 16)
    with open_stack(tmp_path / "a.png") as stack, new_stack(tmp_path / "b.png", stack) as target:
        target.write(slice(0, 1), slice(0, 16), slice(0, 16), np.zeros((1, 3, 16, 16), np.uint8))
    with Image.open(tmp_path / "b.png") as image:
        assert len(image.getexif()[271]) == 70_000


@pytest.mark.parametrize("name", ["x" * 251 + ".npy", "\u00e4" * 125 + ".npy", "x" * 240 + ".npy"])
def test_long_names_of_files(tmp_path: Path, name: str) -> None:
    with whole_file(tmp_path / name) as part:
        assert part.suffix == ".npy" and part.parent == tmp_path
        part.write_bytes(b"new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_colours_and_gray_by_strips() -> None:
    assert [colour_count(channels) for channels in (1, 2, 3, 4)] == [1, 1, 3, 3]
    photo = pixels(4, 700, 5)
    weighted = np.rint(np.tensordot([0.299, 0.587, 0.114], photo[:3].astype(float), axes=(0, 0)))
    assert abs(with_channels(photo, 1)[0].astype(int) - weighted).max() <= 1
    weighted = np.tensordot([0.299, 0.587, 0.114], photo[:3].astype(float), axes=(0, 0))
    np.testing.assert_allclose(with_channels(photo.astype(np.float32), 1)[0], weighted, rtol=1e-5)


PEAK = """
import sys
from npconv.data import FolderPhotos
import PIL.Image, PIL.JpegImagePlugin, PIL.ImageOps

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

photos = FolderPhotos(sys.argv[1], int(sys.argv[2]))
before = peak()
photos.region(0, 5, 5, 32, 32)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_takes_what_pillow_decodes_and_itself(tmp_path: Path, channels: int) -> None:
    """Pillow has four bytes for an RGB pixel, the photo three; the rest is strips and libraries."""
    Image.new("RGB", (5000, 4000), (10, 200, 30)).save(tmp_path / "a.jpg")
    command = [sys.executable, "-c", PEAK, str(tmp_path), str(channels)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 9 * 20_000_000
