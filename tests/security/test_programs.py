"""Programs that try to do more than compute: each row of "TorchScript and torch.export" in docs/security.md."""

import copy
import io
import json
import pickle
import sys
import warnings
import zipfile

import pytest
import torch
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.checkpoints.symbolic_expressions import is_arithmetic
from prelu_doctor.doctor import scan
from prelu_doctor.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")


class MakesAFolder:
    """Unpickling it makes a folder: the trace of code that ran."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "the-code-ran"


@pytest.fixture
def program(tmp_path):
    """A sound exported program whose batch is open."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    axes = {0: torch.export.Dim("batch")}
    content = io.BytesIO()  # whose top folder is always `archive`
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=(axes,)), content)
    (tmp_path / "m.pt2").write_bytes(content.getvalue())
    return tmp_path / "m.pt2"


def records_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path, changes, *, compression=zipfile.ZIP_STORED):
    """The archive with some of its records changed; those that are new are added, None takes one away."""
    records = records_of(path) | {f"archive/{name}": data for name, data in changes.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def edited(path, edit):
    """The exported program with its JSON changed."""
    document = json.loads(records_of(path)["archive/models/model.json"])
    edit(document)
    return rewritten(path, {"models/model.json": json.dumps(document).encode()})


def configured(path, kind, edit):
    name = f"data/{kind}/model_{kind}_config.json"
    config = json.loads(records_of(path)[f"archive/{name}"])
    edit(config["config"])
    return rewritten(path, {name: json.dumps(config).encode()})


def pickled(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Reading(**options))
    assert caught.value.expected
    assert caught.value.remedy
    return str(caught.value)


def torch_runs(path):
    """What torch's own reader does with the file, its model run once; whatever comes of it."""
    try:
        torch.export.load(path).module()(torch.zeros(2, 4))
    except Exception as error:
        return error
    return None


# torch.export: what would run while the file is read -------------------------------------------------------------


def test_a_pickled_weight_is_not_read(program, marker):
    rewritten(program, {"data/weights/weight_0": pickled(MakesAFolder(marker))})
    configured(program, "weights", lambda config: next(iter(config.values())).update(use_pickle=True))
    message = refusal(program)
    assert "'0.weight' is pickled" in message
    assert "--trust" in message
    assert not marker.exists()
    torch_runs(program)
    assert marker.exists()


def test_pickled_sample_inputs_are_never_read(program, marker):
    rewritten(program, {"data/sample_inputs/model.pt": pickled(MakesAFolder(marker))})
    assert read_checkpoint(program).module is not None
    assert not marker.exists()
    torch_runs(program)
    assert marker.exists()


def test_a_pickled_object_among_the_constants_is_not_read(program, marker):
    rewritten(program, {"data/constants/opaque_obj_0": pickle.dumps(MakesAFolder(marker))})
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    configured(program, "constants", lambda config: config.update(evil=entry))
    assert "'evil' is pickled" in refusal(program)
    assert not marker.exists()
    torch_runs(program)
    assert marker.exists()


def test_pickled_weights_of_an_older_format_are_not_read(program, marker):
    rewritten(program, {"data/weights/model.pt": pickled({"0.weight": MakesAFolder(marker)})})
    assert "'data/weights/model.pt' is pickled" in refusal(program)
    assert not marker.exists()
    torch_runs(program)
    assert marker.exists()


def test_a_size_that_is_code_is_not_evaluated(program, marker):
    def edit(document):
        sizes = document["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"__import__('os').mkdir({str(marker)!r})"

    assert "no plain arithmetic" in refusal(edited(program, edit))
    assert not marker.exists()
    torch_runs(program)
    assert marker.exists()


@pytest.mark.parametrize(
    "text",
    [
        "().__class__",
        "s0.__class__",
        "Symbol('s0').subs",
        "eval('1')",
        "Symbol(print)",
        "lambda: 1",
        "[x for x in s0]",
        "'s0'",
        "9**9**9",
        "((9**16)**16)**16",
        "2**(99999*99999)",
        "s0" + "+1" * 2000,
        "1" * 40,
        "u99999999999",
        "s0 # ()",
        "s0;s1",
        "Integer(value=open)",
    ],
)
def test_only_arithmetic_is_arithmetic(text):
    assert not is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "s77",
        "Symbol('s77', positive=True, integer=True)",
        "Add(Mul(Integer(2), Symbol('s0', positive=True, integer=True)), Integer(-1))",
        "Pow(Symbol('s0', positive=True, integer=True), Integer(2))",
        "FloorDiv(s0, 2) + Max(1, s1//3)*s0**2",
        "Float('0.5', precision=53)",
        "StrictGreaterThan(Symbol('u0', integer=True), Integer(0))",
        "2**s0",
    ],
)
def test_arithmetic_is_let_through(text):
    assert is_arithmetic(text)


def test_a_name_that_is_code_is_not_compiled(program, marker):
    code = f"__import__('os').mkdir({str(marker)!r}) or relu"
    text = records_of(program)["archive/models/model.json"].replace(
        b'"name": "relu"', f'"name": {json.dumps(code)}'.encode()
    )
    rewritten(
        program, {"models/model.json": text.replace(b'"relu": {"dtype"', f'{json.dumps(code)}: {{"dtype"'.encode())}
    )
    assert "would put into code" in refusal(program)
    assert not marker.exists()


def test_a_shape_guard_that_is_code_is_left_out(program, marker):
    edited(program, lambda document: document.update(guards_code=[f"not __import__('os').mkdir({str(marker)!r})"]))
    module = read_checkpoint(program).module
    module(torch.zeros(2, 4))
    assert not marker.exists()
    torch_runs(program)
    assert marker.exists()


def test_a_form_of_the_output_that_imports_a_module_is_not_read(program, tmp_path, marker, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    monkeypatch.syspath_prepend(tmp_path)
    context = json.dumps({"__enum__": True, "fqn": "evil_module:E", "name": "a"})
    leaf = {"type": None, "context": None, "children_spec": []}

    def edit(document):
        spec = [1, {"type": "builtins.tuple", "context": context, "children_spec": [leaf]}]
        document["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(spec)

    assert "names an enum to import" in refusal(edited(program, edit))
    assert not marker.exists()
    torch_runs(program)
    assert marker.exists()
    sys.modules.pop("evil_module", None)


# torch.export: what would run when the program runs --------------------------------------------------------------


def calling(program, target, **values):
    """The program with a node of its graph calling something else, with other arguments."""

    def edit(document):
        node = next(node for node in document["graph_module"]["graph"]["nodes"] if "relu" in node["target"])
        node["target"] = target
        node["inputs"] = [{"name": name, "arg": value, "kind": 1} for name, value in values.items()]

    return edited(program, edit)


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.mkdir",
        "torch.load",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten._print.default",
        "torch.ops.image.write_file.default",
        "torch.ops.mine.operator.default",
        "torch.ops.higher_order.inline_asm_elementwise",
        "torch.ops.load_library",
        "torch.ops.aten.relu.default.__globals__",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.__loader__",
        "#extension:thing",
        "os.system",
        "torch.ops.aten._sparse_coo_tensor_unsafe.default",
        "torch.ops.higher_order.cond.__init__",
        "torch.ops.aten.__getattr__.default",
    ],
)
def test_a_call_of_anything_but_an_operator_of_torchs_own_is_refused(program, marker, target):
    message = refusal(calling(program, target, filename={"as_string": str(marker)}))
    assert f"it calls '{target}'" in message
    assert not marker.exists()


def test_torch_itself_opens_the_file_that_a_program_names(program, marker):
    size = {"filename": {"as_string": str(marker)}, "shared": {"as_bool": True}, "size": {"as_int": 8}}
    torch_runs(calling(program, "torch.ops.aten.from_file.default", **size))
    assert marker.exists()


def test_compiled_code_alone_is_refused_and_beside_a_program_left_alone(program, tmp_path):
    rewritten(program, {"data/aotinductor/model/m.so": b"\x7fELF"})
    assert read_checkpoint(program).module is not None
    rewritten(program, {"models/model.json": None})
    assert "compiled code alone" in refusal(program)


# torch.export: memory --------------------------------------------------------------------------------------------


def test_a_weight_that_claims_more_than_its_data_is_refused(program):
    def edit(config):
        config["0.weight"]["tensor_meta"]["sizes"] = [{"as_int": 2**20}, {"as_int": 2**20}]

    assert "'0.weight' claims" in refusal(configured(program, "weights", edit))


def test_a_weight_without_data_gets_no_memory(program):
    rewritten(program, {"data/weights/weight_0": b""})
    assert "its data is 0 bytes" in refusal(program)


def test_a_weight_spread_out_by_strides_of_nothing_is_refused(program):
    def edit(config):
        config["0.weight"]["tensor_meta"]["sizes"] = [{"as_int": 2**40}]
        config["0.weight"]["tensor_meta"]["strides"] = [{"as_int": 0}]

    assert "'0.weight' claims" in refusal(configured(program, "weights", edit))


def test_records_that_unpack_to_more_than_the_file_are_refused(program):
    rewritten(program, {"extra/zeros": b"\0" * 5_000_000}, compression=zipfile.ZIP_DEFLATED)
    assert "out of proportion" in refusal(program)


def test_two_records_of_one_name_are_refused(program):
    with zipfile.ZipFile(program, "a") as archive:
        archive.writestr("archive/MODELS/model.json", records_of(program)["archive/models/model.json"])
    assert "two parts called" in refusal(program)


def test_a_program_that_was_looked_through_computes_what_it_did(program):
    x = torch.randn(3, 4)
    assert torch.equal(read_checkpoint(program).module(x), torch.export.load(program).module()(x))


# TorchScript -----------------------------------------------------------------------------------------------------


class Rectifies(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return torch.relu(self.fc(x))


class KeepsItself(nn.Module):
    """Loading it runs `__setstate__`."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return torch.relu(x * self.w)

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.w, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.w = state[0]
        self.training = state[1]


LOADED = "self.training = (state)[1]"
"""What `KeepsItself.__setstate__` becomes in the archive."""


def scripted(tmp_path, net, before="", after=""):
    """A TorchScript archive with a piece of its code replaced, as nobody's compiler would have written it."""
    path = tmp_path / "s.pt"
    torch.jit.save(torch.jit.script(net.eval()), path)
    changed = {
        name.removeprefix("s/"): data.replace(before.encode(), after.encode())
        for name, data in records_of(path).items()
        if name.endswith(".py")
    }
    assert not before or any(after.encode() in data for data in changed.values())
    records = records_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            if not name.endswith(".debug_pkl"):
                archive.writestr(name, changed.get(name.removeprefix("s/"), data))
    return path


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ("torch.from_file('{marker}', True, 4)", "torch.from_file"),
        ("'{marker}'.from_file(True, 4)", "from_file"),
        ("getattr(torch, 'from_file')('{marker}', True, 4)", "getattr(torch, 'from_file')"),
        ("ops.aten.from_file('{marker}', True, 4)", "ops.aten.from_file"),
        ("ops.image.read_file('{marker}')", "custom operator image::read_file"),
        ("ops.mine.operator(x)", "custom operator mine::operator"),
        ("(ops).image", "takes ops.image for a value"),
        ("torch.add(x, __torch__.torch.classes.mine.Thing())", "torch.classes.mine.Thing"),
        ("torch.add(x, torch._C._log_api_usage_once('a'))", "torch._C._log_api_usage_once"),
        ("rpc_sync('other', '{marker}')", "rpc_sync"),
        ("torch._sparse_coo_tensor_unsafe(x, x, [4])", "_sparse_coo_tensor_unsafe"),
    ],
)
def test_torchscript_that_asks_for_more_than_arithmetic_is_refused(tmp_path, marker, after, told):
    code = after.replace("{marker}", str(marker)).replace("'", '"')
    message = refusal(scripted(tmp_path, Rectifies(), "torch.relu(", f"torch.add({code}, "))
    assert told.replace("'", '"') in message or told in message
    assert "--trust" in message
    assert not marker.exists()


def test_code_too_long_to_be_looked_through_is_refused(tmp_path):
    path = scripted(tmp_path, Rectifies())
    records = records_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data + b"\n" * 2**21 if name.endswith(".py") else data)
    assert "too long to be looked through" in refusal(path)


def test_code_that_loading_would_run_is_looked_through_before(tmp_path, marker):
    path = scripted(tmp_path, KeepsItself(), LOADED, f'{LOADED}\n    ops.aten.save((state)[0], "{marker}")')
    assert "ops.aten.save" in refusal(path)
    assert not marker.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(path)
    assert marker.exists()


def test_trust_loads_it_nevertheless(tmp_path, marker):
    path = scripted(tmp_path, KeepsItself(), LOADED, f'{LOADED}\n    ops.aten.save((state)[0], "{marker}")')
    read_checkpoint(path, Reading(trust=True))
    assert marker.exists()


def test_an_object_of_a_foreign_class_in_the_pickle_is_refused(tmp_path):
    path = scripted(tmp_path, Rectifies())
    name = next(name for name in records_of(path) if name.endswith("/data.pkl"))
    data = records_of(path)[name].replace(b"__torch__.", b"__torch__.torch.classes.mine.Thing", 1)
    records = records_of(path) | {name: data}
    with zipfile.ZipFile(path, "w") as archive:
        for record, content in records.items():
            archive.writestr(record, content)
    assert "torch.classes.mine" in refusal(path)


def test_code_that_is_no_plain_text_is_refused(tmp_path):
    path = scripted(tmp_path, Rectifies(), "torch.relu(", "torch.\uff52elu(")
    assert "is no plain text" in refusal(path)


def test_what_a_program_prints_and_warns_reaches_no_stream(tmp_path, capfd):
    class Talks(Rectifies):
        def forward(self, x):
            print("\x1b[31m hello")  # noqa: T201
            return torch.relu(self.fc(x))

    path = scripted(tmp_path, Talks())
    report = scan(path, torch.randn(8, 4))
    assert report.sites[0].units == 3
    assert capfd.readouterr() == ("", "")


def test_the_reading_of_real_archives_needs_no_trust(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Flatten(), nn.LazyLinear(4)).eval()
    x = torch.randn(2, 3, 8, 8)
    net(x)
    for number, made in enumerate(
        (torch.jit.script(net), torch.jit.trace(net, x), torch.jit.freeze(torch.jit.script(net)))
    ):
        torch.jit.save(made, tmp_path / f"{number}.pt", _extra_files={"notes.txt": "anything"})
        module = read_checkpoint(tmp_path / f"{number}.pt").module
        assert torch.allclose(module(copy.deepcopy(x)), net(x), atol=1e-6)
