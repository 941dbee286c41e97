"""The command line: parse, call the library, render, exit code. `--help` must not import torch."""


def main() -> None:
    """Runs the `prelu-doctor` command."""
    from prelu_doctor.cli.app import run

    run()
