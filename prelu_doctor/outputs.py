"""Writing result files: all of them or none, and never over something the user did not offer."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from prelu_doctor.errors import UsageError

Writer = Callable[[Path], object]
"""Writes the path it is given; files that it leaves beside that path belong to the result."""


def check_targets(targets: Iterable[Path], *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse targets that cannot or must not be written, before any work is done.

    Args:
        targets: Files that are to be written.
        force: Whether existing files may be replaced.
        inputs: Files that are being read; they are never written, whatever `force` says.

    Raises:
        UsageError: For the first target that will not do.
    """
    seen: dict[Path, Path] = {}
    for target in targets:
        real = target.resolve()
        if real in seen:
            raise UsageError(f"two outputs go to {target}", "a file of its own for each output", "name them apart")
        seen[real] = target
        _check_target(target, force)
        _check_not_input(target, inputs)


def write_together(writers: Sequence[tuple[Path, Writer]], *, force: bool, inputs: Iterable[Path] = ()) -> list[Path]:
    """Write several files so that either all of them appear or none does.

    Every writer gets a path of its target's own name in a hidden temporary folder beside the target. When all writers
    are done and their files are on the disk, the files are renamed into place one after another.

    Args:
        writers: Each target with the callable that writes it, called in this order.
        force: Whether existing files may be replaced.
        inputs: Files that are being read; they are never written.

    Returns:
        Every file that was written, as its target named it; files that a writer left beside its own come after.

    Raises:
        UsageError: If a target must not be written, or the disk refuses; nothing has been replaced then.
    """
    targets = [target for target, _ in writers]
    check_targets(targets, force=force, inputs=inputs)
    with _terminated_like_interrupted(), ExitStack() as staging:
        folders = {folder: _staging_folder(folder, staging) for folder in dict.fromkeys(_folder(t) for t in targets)}
        for target, write in writers:
            _write(target, write, folders[_folder(target)] / target.resolve().name)
        moves = _moves(targets, folders)
        check_targets((target for _, target in moves), force=force, inputs=inputs)
        _publish(moves, force=force)
    extra = [target for _, target in moves if target not in {t.resolve() for t in targets}]
    return targets + extra


def _check_target(target: Path, force: bool) -> None:
    folder = _folder(target)
    if not folder.is_dir():
        raise UsageError(f"{target} cannot be written: there is no folder {folder}", "an existing folder", "create it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{target} cannot be written: no permission in {folder}", "a writable folder", "another -o")
    if not os.path.lexists(target):
        return
    if target.exists() and not target.is_file():
        raise UsageError(f"{target} is not a regular file", "the name of a file to write", "another name")
    if not force:
        raise _in_the_way(target)


def _in_the_way(target: Path) -> UsageError:
    return UsageError(f"{target} exists", "a new file", "another name, or --force to replace it")


def _check_not_input(target: Path, inputs: Iterable[Path]) -> None:
    for source in inputs:
        if target.exists() and source.exists() and target.samefile(source):
            raise UsageError(
                f"{target} is also an input", "an output of its own: inputs are never written", "another name"
            )


def _folder(target: Path) -> Path:
    # A link is followed, so that the rename replaces the file it points at and not the link.
    return target.resolve().parent


def _staging_folder(folder: Path, staging: ExitStack) -> Path:
    try:
        created = tempfile.mkdtemp(prefix=f".prelu-doctor-{os.getpid()}-", suffix=".tmp", dir=folder)
    except OSError as error:
        raise _refusal(folder, error) from error
    staging.callback(shutil.rmtree, created, ignore_errors=True)
    return Path(created)


def _write(target: Path, write: Writer, staged: Path) -> None:
    try:
        write(staged)
        for path in staged.parent.iterdir():
            _give_usual_mode(path)
            _flush(path)
    except OSError as error:
        raise _refusal(target, error) from error
    except RuntimeError as error:
        # torch.save meets a full disk with a RuntimeError of its own.
        if shutil.disk_usage(staged.parent).free > 1 << 20:
            raise
        raise _refusal(target, error) from error
    if not staged.is_file():
        raise RuntimeError(f"the writer of {target} wrote nothing")


def _give_usual_mode(path: Path) -> None:
    """What any new file gets: safetensors writes its own readable by their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _flush(path: Path) -> None:
    """Force a file's bytes to the disk, so that no crash after the rename leaves an empty file under a good name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _refusal(place: Path, error: Exception) -> UsageError:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return UsageError(
        f"{place} cannot be written: {reason}; nothing was written", "a writable folder with room", "another folder"
    )


def _moves(targets: list[Path], folders: dict[Path, Path]) -> list[tuple[Path, Path]]:
    """Each staged file and where it goes; side files first, so that no main file ever stands without its own."""
    main = {target.resolve() for target in targets}
    moves = [(path, folder / path.name) for folder, staged in folders.items() for path in sorted(staged.iterdir())]
    return sorted(moves, key=lambda move: move[1] in main)


def _publish(moves: list[tuple[Path, Path]], *, force: bool) -> None:
    """Rename every file into place; where one rename fails, undo those before it.

    Without `force` a target that has appeared since it was checked is left alone, as far as the file system can tell.
    """
    done: list[tuple[Path | None, Path]] = []
    try:
        for staged, target in moves:
            previous = _kept(target, staged) if force else None
            if force:
                staged.replace(target)
            else:
                _rename_to_new(staged, target)
            done.append((previous, target))
    except BaseException as error:
        for previous, target in reversed(done):
            _restore(previous, target)
        if isinstance(error, FileExistsError):
            raise _in_the_way(moves[len(done)][1]) from error
        if isinstance(error, OSError):
            raise _refusal(moves[len(done)][1], error) from error
        raise


def _rename_to_new(staged: Path, target: Path) -> None:
    """Rename unless the target exists: a plain rename would replace it. The staged name goes with its folder.

    Raises:
        FileExistsError: It does.
    """
    try:
        os.link(staged, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        staged.replace(target)


def _kept(target: Path, staged: Path) -> Path | None:
    """A second name for the file that is about to be replaced; None where there is none. The new one gets its mode."""
    if not target.exists():
        return None
    staged.chmod(stat.S_IMODE(target.stat().st_mode))
    previous = staged.with_name(f"{staged.name}.previous")
    try:
        os.link(target, previous)
    except OSError:  # a file system without links
        shutil.copy2(target, previous)
    return previous


def _restore(previous: Path | None, target: Path) -> None:
    if previous is None:
        target.unlink()
    else:
        previous.replace(target)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does, so that temporary files are removed on the way out."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
