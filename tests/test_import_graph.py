"""Imports go one way, and some powers have one owner: read off the syntax of the whole package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "prelu_doctor"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    {"records", "errors", "escaping", "config"},
    {"expected_inputs", "file_kinds", "imports", "leaves", "methods", "outputs", "devices", "undisturbed"},
    {"untrusted"},
    {"checkpoints", "data"},
    {"samples", "sites", "weights"},
    {"scanning"},
    {"onnx_scanning"},
    {"diagnosis"},
    {"treatment"},
    {"deployment"},
    {"bare_weights", "onnx_patient"},
    {"patient"},
    {"doctor"},
    {"cli"},
]
"""Each may import from the layers above it in this list, and from its own folder."""

JUDGES_AND_PRINTERS = {"gate", "reports"}
WHAT_THEY_SEE = {"records", "config", "errors", "escaping"} | JUDGES_AND_PRINTERS


def home(path: Path) -> str:
    """The folder of the package that a file lies in, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path, *, at_import_only: bool = False) -> set[str]:
    """Names of all modules that a file imports, `prelu_doctor` itself by the name that is taken from it."""
    nodes = run_at_import(ast.parse(path.read_text())) if at_import_only else ast.walk(ast.parse(path.read_text()))
    return {name for node in nodes for name in names_of(node)}


def run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node but those inside of functions and of `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)


def names_of(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    assert node.level == 0, "imports are absolute"
    if node.module == "prelu_doctor":
        return {f"prelu_doctor.{alias.name}" for alias in node.names}
    return {str(node.module)}


def our_homes(path: Path) -> set[str]:
    """What a file imports of this package, by home; without the file's own, and without the version."""
    ours = {name.split(".")[1] for name in imported_modules(path) if name.startswith("prelu_doctor.")}
    return ours - {home(path), "__version__"}


def names_used(path: Path) -> set[str]:
    """Every dotted name that a file's code mentions or imports, and every part that ends it."""
    tree = ast.parse(path.read_text())
    dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            dotted |= {f"{node.module}.{alias.name}" for alias in node.names}
    return dotted | {name.rpartition(".")[2] for name in dotted}


def names_called(path: Path) -> set[str]:
    """The plain names, without a dot, that a file calls."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def users_of(*names: str) -> set[str]:
    """The files that use one of these names, as paths below the package."""
    return {str(path.relative_to(PACKAGE)) for path in FILES if names_used(path) & set(names)}


def test_every_file_has_a_place():
    homes = {home(path) for path in FILES} - {"__init__", "__main__"}
    assert homes <= set().union(*LAYERS) | JUDGES_AND_PRINTERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path):
    own = home(path)
    if own in ("__init__", "__main__"):
        return
    if own in JUDGES_AND_PRINTERS:
        assert our_homes(path) <= WHAT_THEY_SEE
        return
    place = next(index for index, layer in enumerate(LAYERS) if own in layer)
    lower = set().union(*LAYERS[:place])
    peers = LAYERS[place] if place < 2 else set()
    assert our_homes(path) <= lower | peers | (JUDGES_AND_PRINTERS if own == "cli" else set())


def test_the_lowest_files_form_no_circle():
    lowest = {home(path): our_homes(path) for path in FILES if home(path) in LAYERS[0] | LAYERS[1]}
    seen: list[str] = []
    while ready := [name for name, needs in lowest.items() if name not in seen and needs <= set(seen)]:
        seen += ready
    assert set(seen) == set(lowest)


def test_only_the_entry_points_know_the_command_line():
    assert {home(path) for path in FILES if "cli" in our_homes(path)} == {"__main__"}


@pytest.mark.parametrize(
    "name", ["records", "errors", "escaping", "gate", "reports", "diagnosis", "file_kinds", "cli", "__init__"]
)
def test_what_runs_no_model_imports_no_torch(name: str):
    for path in (path for path in FILES if home(path) == name):
        heavy = {module.split(".")[0] for module in imported_modules(path, at_import_only=True)}
        assert heavy.isdisjoint({"torch", "onnx", "onnxruntime", "safetensors", "numpy"})


def test_what_help_needs_is_light():
    for path in (path for path in FILES if home(path) in ("cli", "__init__", "__main__", "errors")):
        heavy = {module.split(".")[0] for module in imported_modules(path, at_import_only=True)}
        assert heavy.isdisjoint({"rich", "msgspec"})
        ours = {module for module in imported_modules(path, at_import_only=True) if module.startswith("prelu_doctor.")}
        assert {module.split(".")[1] for module in ours} <= {"cli", "errors", "__version__"}


def test_only_the_command_line_knows_typer_and_only_it_and_reports_know_rich():
    assert homes_importing("typer") == {"cli"}
    assert homes_importing("rich") == {"cli", "reports"}


def homes_importing(package: str) -> set[str]:
    return {home(path) for path in FILES if package in {name.split(".")[0] for name in imported_modules(path)}}


def test_hooks_and_modes_have_one_owner():
    hooks = (
        "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_hook",
        "register_module_forward_hook", "register_module_forward_pre_hook", "register_module_full_backward_hook",
    )  # fmt: skip
    modes = ("TorchDispatchMode", "TorchFunctionMode", "FakeTensorMode")
    converted = "treatment/routing.py"  # its mode is part of a converted model's forward
    assert users_of(*hooks, *modes) == {"sites/trace.py", "sites/recorder.py", converted}


def test_files_are_read_in_few_places():
    readers = users_of(
        "torch.load",
        "safe_open",
        "load_file",
        "torch.jit.load",
        "torch.export.load",
        "load_pt2",
        "np.load",
        "pickle.load",
    )
    assert readers == {
        "untrusted/torch_saves.py", "checkpoints/distributed.py", "checkpoints/exported_programs.py",
        "checkpoints/pickles.py", "checkpoints/safetensors_files.py", "checkpoints/torchscript.py", "data/arrays.py",
    }  # fmt: skip
    writers = users_of("torch.save", "torch.export.save", "save_file", "safetensors.torch.save")
    # The reader of exported programs writes into memory what it has looked through.
    assert writers == {"treatment/converted_file.py", "deployment/pt2_file.py", "checkpoints/exported_programs.py"}


def test_only_the_opening_of_checkpoints_may_run_a_files_code():
    unsafe = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.load"
        and [ast.unparse(word.value) for word in call.keywords if word.arg == "weights_only"] != ["True"]
    }  # fmt: skip
    assert unsafe == {"checkpoints/pickles.py"}
    built_in = {name for path in FILES for name in names_called(path)} & {"eval", "exec", "__import__", "compile"}
    assert built_in == set()
    assert users_of("importlib.import_module", "exec_module") == {
        "__init__.py", "imports.py", "untrusted/pickle_names.py"
    }  # fmt: skip


def test_only_the_command_line_prints():
    printing = {str(path.relative_to(PACKAGE)) for path in FILES if "print" in names_called(path)}
    assert printing | users_of("sys.stdout") == {"cli/terminal.py"}
    assert users_of("typer.echo") == {"cli/app.py"}
    assert users_of("sys.stderr") == {"cli/terminal.py", "imports.py"}
