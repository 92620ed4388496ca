"""What is installed, what is public, and which way the imports point."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import inspect
import sys
import types
from pathlib import Path

import pytest

import npconv
from npconv import backends

PACKAGE = Path(npconv.__file__).parent
BACKENDS = Path(backends.__file__).parent
FILES = sorted({*PACKAGE.rglob("*.py"), *BACKENDS.rglob("*.py")})
SETUP = PACKAGE.parent / "setup.cfg"

# What the project promised to offer under these names.
PROMISED = [
    "Conv2d", "ConvTranspose2d", "TransposeConv2d", "UpsamplingNearest2d", "NearestUpsampling",
    "Upsampling", "ReLU", "LeakyReLU", "Sigmoid", "Tanh", "MaxPool2d", "AvgPool2d", "BatchNorm2d", "Linear",
    "Flatten", "Dropout", "PixelShuffle", "PixelUnshuffle", "Identity", "Sequential", "Concat", "Sum",
    "MSE", "MSELoss", "L1", "L1Loss", "SGD", "Adam", "Model", "Module", "Parameter", "backend",
    "use_backend", "no_grad", "asarray", "to_numpy", "manual_seed", "save", "load", "check_gradients",
    "summary",
]  # fmt: skip


def name(path: Path) -> str:
    root = PACKAGE if path.is_relative_to(PACKAGE) else BACKENDS.parent
    return path.relative_to(root).as_posix()


def imports(path: Path) -> list[tuple[int, str]]:
    """Every import of a file, wherever it stands: (number of leading dots, module name)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def test_the_version_is_that_of_the_installed_package() -> None:
    assert npconv.__version__ == importlib.metadata.version("npconv")
    assert [int(part) >= 0 for part in npconv.__version__.split(".")[:3]] == [True] * 3


@pytest.mark.parametrize("folder", [PACKAGE, BACKENDS], ids=["npconv", "backends"])
def test_type_checkers_see_the_annotations(folder: Path) -> None:
    assert (folder / "py.typed").is_file()


@pytest.mark.skipif(not SETUP.is_file(), reason="not in a checkout")
def test_every_folder_with_code_is_installed() -> None:
    config = configparser.ConfigParser()
    config.read(SETUP, encoding="utf-8")
    listed = set(config["options"]["packages"].split())
    for folder in {path.parent for path in FILES}:
        root, prefix = (PACKAGE, "npconv") if folder.is_relative_to(PACKAGE) else (BACKENDS, "npconv.backends")
        assert ".".join([prefix, *folder.relative_to(root).parts]) in listed


# ---- public names ----
def test_all_is_sorted_out_and_complete() -> None:
    assert len(npconv.__all__) == len(set(npconv.__all__))
    assert set(PROMISED) <= set(npconv.__all__)
    assert npconv.TransposeConv2d is npconv.ConvTranspose2d and npconv.NearestUpsampling is npconv.UpsamplingNearest2d
    assert npconv.MSELoss is npconv.MSE and npconv.L1Loss is npconv.L1


@pytest.mark.parametrize("public", sorted(npconv.__all__))
def test_every_public_name_exists_and_is_described(public: str) -> None:
    value = getattr(npconv, public)
    if not inspect.isclass(value) and not inspect.isfunction(value) and not isinstance(value, types.ModuleType):
        assert public == "__version__"
        return
    text = inspect.getdoc(value) or ""
    assert len(text) > 20
    if inspect.isclass(value):
        assert value.__doc__, f"{public} must have a docstring of its own"
    if inspect.isfunction(value):
        parameters = inspect.signature(value).parameters.values()
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_says_what_is_in_it_and_has_one_idea(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


# ---- which way the arrows point ----
@pytest.mark.parametrize("path", [p for p in FILES if not p.is_relative_to(BACKENDS / "gpu")], ids=name)
def test_only_the_gpu_backend_imports_cupy(path: Path) -> None:
    assert not [module for _, module in imports(path) if module.partition(".")[0].startswith("cupy")]


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(BACKENDS)], ids=name)
def test_backends_import_nothing_from_above(path: Path) -> None:
    depth = len(path.relative_to(BACKENDS).parts)
    outside = {"numpy", "threadpoolctl"} | ({"cupy"} if path.is_relative_to(BACKENDS / "gpu") else set())
    allowed = outside | sys.stdlib_module_names
    for level, module in imports(path):
        if level:
            assert level <= depth, f"{'.' * level}{module} leaves backends/"
        else:
            assert module.partition(".")[0] in allowed, module


LAYERS_ABOVE = {
    "module.py": {
        "containers",
        "layers",
        "networks",
        "model",
        "weights",
        "data",
        "cli",
        "losses",
        "optim",
        "training",
    },
    "containers.py": {"networks", "model", "weights", "data", "cli", "losses", "optim", "training"},
    "losses.py": {"layers", "networks", "model", "weights", "data", "cli", "optim", "training"},
    "optim.py": {"layers", "networks", "model", "weights", "data", "cli", "training"},
    "weights.py": {"model", "data", "cli", "training"},
    "training.py": {"model", "weights", "data", "cli", "networks"},
    "networks.py": {"model", "weights", "data", "cli", "training"},
    "model.py": {"cli"},
}


@pytest.mark.parametrize("file", sorted(LAYERS_ABOVE))
def test_the_imports_point_one_way(file: str) -> None:
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = {(node.module or "").partition(".")[0]} if node.module else {alias.name for alias in node.names}
            assert not names & LAYERS_ABOVE[file], f"{file} must not import {names}"
