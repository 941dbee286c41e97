"""The public names, and the wheel that carries them."""

from __future__ import annotations

import subprocess
import sys
import typing
import zipfile
from pathlib import Path

import pytest

import prelu_doctor

REPOSITORY = Path(__file__).parents[1]


def test_every_public_name_is_there_documented_and_listed():
    assert {"check_parity", "convert", "export_onnx", "load", "scan"} <= set(prelu_doctor.__all__)
    assert sorted(prelu_doctor.__all__) == prelu_doctor.__all__
    assert set(prelu_doctor.__all__) <= set(dir(prelu_doctor))
    for name in prelu_doctor.__all__:
        assert getattr(prelu_doctor, name).__doc__
        assert getattr(prelu_doctor, name) is getattr(prelu_doctor, name)


def test_every_public_function_is_annotated():
    for name in prelu_doctor.__all__:
        thing = getattr(prelu_doctor, name)
        if not isinstance(thing, type):
            assert "return" in typing.get_type_hints(thing)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'heal'"):
        prelu_doctor.heal  # noqa: B018 - the access is what is tested
    assert not hasattr(prelu_doctor, "heal")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.Path:
    pytest.importorskip("hatchling", reason="the build backend is not installed beside the tests")
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(REPOSITORY),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
    ]
    subprocess.run(build, check=True, capture_output=True)  # noqa: S603 - our own build
    (path,) = folder.glob("*.whl")
    return zipfile.Path(path)


def test_the_wheel_is_typed_and_holds_all_code_and_the_demos_files(wheel):
    names = {name for name in wheel.root.namelist() if ".dist-info/" not in name and name[-1] != "/"}
    code = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "prelu_doctor").rglob("*.py")}
    demo = {"prelu_doctor/fixtures/dying_cnn.pt", "prelu_doctor/fixtures/digits.safetensors"}
    assert names == code | demo | {"prelu_doctor/py.typed"}


def test_the_wheel_names_the_version_and_the_command(wheel):
    folder = f"prelu_doctor-{prelu_doctor.__version__}.dist-info"
    assert "prelu-doctor = prelu_doctor.cli:main" in (wheel / folder / "entry_points.txt").read_text()
    assert f"Version: {prelu_doctor.__version__}" in (wheel / folder / "METADATA").read_text()
