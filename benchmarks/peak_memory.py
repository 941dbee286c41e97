"""Peak memory of a scan, against the size of the model: what reading a checkpoint costs beside holding it.

    python -m benchmarks.peak_memory                 1 GB in every form (about two minutes)
    python -m benchmarks.peak_memory --megabytes 256

Each scan runs in a process of its own. Its peak is the largest resident set that the system saw (mapped pages of files
count), less that of the same scan of a model of a few bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

FORMS = ("module.pt", "state.pt", "state.safetensors", "sharded", "distributed", "hugging-face")
LAYERS = 4

_SCAN = """
import json, resource, sys
import torch
from torch import nn
from prelu_doctor.patient import open_patient
from prelu_doctor.doctor import scan

width, layers = int(sys.argv[3]), int(sys.argv[4])
if sys.argv[2] == "hugging-face":
    patient = open_patient(sys.argv[1], device="cpu")
    data = [{"input_ids": torch.randint(3, 50, (8, 4))}]
else:
    arch = None if sys.argv[2] == "module.pt" else "benchmarks.peak_memory:wide"
    patient = open_patient(sys.argv[1], arch=arch, arch_args={"width": width, "layers": layers}, device="cpu") \
        if arch else open_patient(sys.argv[1], device="cpu")
    data = torch.randn(8, width)
report = scan(patient, data)
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                  "model": sum(p.nbytes for p in patient.module.parameters()), "sites": len(report.sites)}))
"""


def wide(width: int, layers: int = LAYERS):
    """Linear layers of `width x width`, each with a ReLU behind it."""
    from torch import nn

    return nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())))


def measured(form: str, folder: Path, megabytes: int) -> dict[str, float]:
    """Peak of one form of checkpoint beyond that of a tiny one, and the model's size, in bytes."""
    width = int((megabytes * 1e6 / 4 / LAYERS) ** 0.5)
    big, tiny = (_scanned(form, folder / str(size), size) for size in (width, 8))
    return {"model": big["model"], "peak": big["peak"] - tiny["peak"], "sites": big["sites"]}


def _scanned(form: str, folder: Path, width: int) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    # In a process of its own too: this one must not grow before it forks.
    make = f"from benchmarks.peak_memory import make; make({form!r}, {str(folder)!r}, {width})"
    subprocess.run([sys.executable, "-W", "ignore", "-c", make], check=True, stdout=subprocess.DEVNULL)
    arguments = [str(folder / form), form, str(width), str(LAYERS)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCAN, *arguments], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def make(form: str, folder: str, width: int) -> None:
    """A checkpoint of the form, with seeded weights, at `folder/form`."""
    import torch

    torch.manual_seed(0)
    _MAKERS[form](Path(folder) / form, width)


def _module(path: Path, width: int) -> None:
    import torch

    torch.save(wide(width), path)


def _state(path: Path, width: int) -> None:
    import torch

    torch.save(wide(width).state_dict(), path)


def _safetensors(path: Path, width: int) -> None:
    from safetensors.torch import save_file

    save_file(wide(width).state_dict(), path)


def _sharded(path: Path, width: int) -> None:
    from safetensors.torch import save_file

    path.mkdir(exist_ok=True)
    state = wide(width).state_dict()
    weights = {name: f"part-{k % 3}.safetensors" for k, name in enumerate(state)}
    for part in set(weights.values()):
        save_file({name: state[name] for name, file in weights.items() if file == part}, path / part)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def _distributed(path: Path, width: int) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({"model": wide(width).state_dict()}, checkpoint_id=path, no_dist=True)


def _hugging_face(path: Path, width: int) -> None:
    import transformers

    size = max(8, int(width * (LAYERS / 24) ** 0.5) // 8 * 8)  # two layers of 12 x size x size weights each
    config = transformers.OPTConfig(
        vocab_size=50, hidden_size=size, ffn_dim=4 * size, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, word_embed_proj_dim=size,
    )  # fmt: skip
    transformers.OPTForCausalLM(config).save_pretrained(path)


_MAKERS: dict[str, Callable[[Path, int], None]] = {
    "module.pt": _module,
    "state.pt": _state,
    "state.safetensors": _safetensors,
    "sharded": _sharded,
    "distributed": _distributed,
    "hugging-face": _hugging_face,
}


def main() -> None:
    """Prints a line for each form."""
    parser = argparse.ArgumentParser(description="Peak memory of a scan against the model's size.")
    parser.add_argument("--megabytes", type=int, default=1000, metavar="N", help="of weights")
    parser.add_argument("--only", choices=FORMS, help="one form alone")
    options = parser.parse_args()
    print(f"{'form':18s} {'model':>9s} {'peak':>9s}  peak / model")
    for form in [options.only] if options.only else FORMS:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(form, Path(folder), options.megabytes)
        model, peak = found["model"] / 1e6, found["peak"] / 1e6
        print(f"{form:18s} {model:6.0f} MB {peak:6.0f} MB  {peak / model:.3f}")


if __name__ == "__main__":
    main()
