"""Everything that a run needs, imported before it is forked: importing it in each process would take hours."""

from __future__ import annotations


def loaded() -> None:
    """Imports the libraries, and keeps torch to one thread: its workers do not live on in a fork."""
    import onnx
    import onnxruntime
    import torch
    import torch.distributed.checkpoint
    import torch.export
    import transformers

    import prelu_doctor.cli.app
    import prelu_doctor.doctor

    del onnx, onnxruntime, transformers, prelu_doctor
    torch.set_num_threads(1)
