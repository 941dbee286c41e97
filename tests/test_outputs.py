import errno
import os
import signal
from pathlib import Path

import pytest

from prelu_doctor import outputs
from prelu_doctor.errors import BrokenPromiseError, UsageError
from prelu_doctor.outputs import check_targets, write_together


def writes(text):
    return lambda path: path.write_text(text)


def raises(error):
    def write(path):
        path.write_text("half of it")
        raise error

    return write


def no_links(*_):
    raise OSError(errno.EPERM, "no links here")


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "out"
    made.mkdir()
    return made


def test_all_files_appear_under_their_names_and_nothing_else(folder):
    written = write_together([(folder / "a", writes("1")), (folder / "b", writes("2"))], force=False)
    assert contents(folder) == {"a": "1", "b": "2"}
    assert written == [folder / "a", folder / "b"]


def test_files_may_go_to_different_folders(folder, tmp_path):
    write_together([(folder / "a", writes("1")), (tmp_path / "b", writes("2"))], force=False)
    assert contents(folder) == {"a": "1"}
    assert (tmp_path / "b").read_text() == "2"


def test_writers_see_the_final_name_beside_the_target_and_no_target_yet(folder):
    seen = []
    write_together(
        [(folder / "a", lambda path: seen.append(path) or path.write_text("1")), (folder / "b", writes("2"))],
        force=False,
    )
    assert seen[0].name == "a"
    assert seen[0].parent.parent == folder
    assert seen[0].parent.name.startswith(".")


def test_what_a_writer_leaves_beside_its_file_comes_along_before_it(folder, monkeypatch):
    def write(path):
        path.write_text("1")
        path.with_name("a.data").write_text("2")

    order = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda path, target: order.append(target.name) or link(path, target))
    written = write_together([(folder / "a", write)], force=False)
    assert contents(folder) == {"a": "1", "a.data": "2"}
    assert written == [folder / "a", folder / "a.data"]
    assert order == ["a.data", "a"]


def test_a_file_beside_is_not_replaced_without_force_either(folder):
    def write(path):
        path.write_text("1")
        path.with_name("a.data").write_text("2")

    (folder / "a.data").write_text("old")
    with pytest.raises(UsageError, match=r"a\.data exists"):
        write_together([(folder / "a", write)], force=False)
    assert contents(folder) == {"a.data": "old"}


def test_an_existing_target_is_refused_before_any_work(folder):
    (folder / "b").write_text("old")
    worked = []
    with pytest.raises(UsageError, match="--force"):
        write_together([(folder / "a", worked.append), (folder / "b", worked.append)], force=False)
    assert not worked
    assert contents(folder) == {"b": "old"}


def test_force_replaces_an_existing_target(folder):
    (folder / "a").write_text("old")
    write_together([(folder / "a", writes("new"))], force=True)
    assert contents(folder) == {"a": "new"}


@pytest.mark.parametrize(
    "error", [BrokenPromiseError("no"), KeyboardInterrupt(), SystemExit(3), ValueError("bug"), RuntimeError("bug")]
)
def test_when_one_writer_fails_nothing_is_replaced_and_the_error_passes_as_it_is(folder, error):
    (folder / "a").write_text("old")
    with pytest.raises(type(error)) as caught:
        write_together([(folder / "a", writes("new")), (folder / "b", raises(error))], force=True)
    assert caught.value is error
    assert contents(folder) == {"a": "old"}


def test_sigterm_removes_the_temporaries_and_its_handling_is_restored(folder):
    (folder / "a").write_text("old")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        write_together(
            [(folder / "a", writes("new")), (folder / "b", lambda _: os.kill(os.getpid(), signal.SIGTERM))], force=True
        )
    assert caught.value.code == 128 + signal.SIGTERM
    assert contents(folder) == {"a": "old"}
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_is_one_clear_error(folder):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UsageError, match="No space left on device; nothing was written"):
        write_together([(folder / "a", writes("1")), (folder / "b", raises(full))], force=False)
    assert contents(folder) == {}


def test_a_full_disk_that_a_library_calls_a_runtime_error_is_the_same_error(folder, monkeypatch):
    usage = outputs.shutil.disk_usage(folder)._replace(free=0)
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match="unexpected pos"):
        write_together([(folder / "a", raises(RuntimeError("unexpected pos 64 vs 0")))], force=False)
    assert contents(folder) == {}


def appearing(folder, monkeypatch, name):
    """From now on a file of this name appears in the folder when the temporary files have been checked."""
    checked = outputs.check_targets

    def check(targets, **options):
        targets = list(targets)
        checked(targets, **options)
        if list(folder.glob(".prelu-doctor-*")):
            (folder / name).write_text("somebody else's")

    monkeypatch.setattr(outputs, "check_targets", check)


@pytest.mark.parametrize("links", [True, False])
def test_a_target_that_appears_between_check_and_rename_is_left_alone_and_nothing_is_written(
    folder, monkeypatch, links
):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    appearing(folder, monkeypatch, "b")
    with pytest.raises(UsageError, match="b exists"):
        write_together([(folder / name, writes("new")) for name in "abc"], force=False)
    assert contents(folder) == {"b": "somebody else's"}


def test_a_new_file_is_written_where_there_are_no_links_too_and_has_one_name_where_there_are(folder, monkeypatch):
    write_together([(folder / "a", writes("1"))], force=False)
    assert (folder / "a").stat().st_nlink == 1
    monkeypatch.setattr(os, "link", no_links)
    write_together([(folder / "b", writes("2"))], force=False)
    assert contents(folder) == {"a": "1", "b": "2"}


def test_force_replaces_a_target_that_appears_too(folder, monkeypatch):
    appearing(folder, monkeypatch, "a")
    write_together([(folder / "a", writes("new"))], force=True)
    assert contents(folder) == {"a": "new"}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(folder, mode):
    (folder / "a").write_text("old")
    (folder / "a").chmod(mode)
    write_together([(folder / "a", writes("new"))], force=True)
    assert (folder / "a").stat().st_mode & 0o7777 == mode
    assert contents(folder) == {"a": "new"}


@pytest.mark.parametrize("links", [True, False])
def test_a_rename_that_fails_undoes_those_before_it(folder, monkeypatch, links):
    (folder / "a").write_text("old")
    rename = Path.replace

    def stubborn(path, target):
        if target.name == "c":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", stubborn)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(UsageError, match="c cannot be written: Operation not permitted"):
        write_together([(folder / name, writes("new")) for name in "abc"], force=True)
    assert contents(folder) == {"a": "old"}


def test_a_link_stays_and_the_file_it_points_at_is_replaced(folder, tmp_path):
    (tmp_path / "real").write_text("old")
    (folder / "a").symlink_to(tmp_path / "real")
    write_together([(folder / "a", writes("new"))], force=True)
    assert (folder / "a").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_new_files_get_the_permissions_that_the_user_gives_to_new_files(folder):
    (folder / "plain").write_text("")
    write_together([(folder / "a", writes("1"))], force=False)
    assert (folder / "a").stat().st_mode == (folder / "plain").stat().st_mode


def test_a_missing_folder_is_refused(folder):
    with pytest.raises(UsageError, match="there is no folder"):
        check_targets([folder / "absent" / "a"], force=True)


def test_a_file_for_a_folder_is_refused(folder):
    (folder / "a").write_text("")
    with pytest.raises(UsageError, match="there is no folder"):
        check_targets([folder / "a" / "b"], force=True)


def test_an_unwritable_folder_is_refused(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="no permission"):
        check_targets([folder / "a"], force=True)


def test_a_folder_that_turns_out_unwritable_is_one_clear_error(folder, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(outputs.tempfile, "mkdtemp", refuse)
    with pytest.raises(UsageError, match="Read-only file system"):
        write_together([(folder / "a", writes("1"))], force=False)


def test_a_folder_as_target_is_refused(folder):
    with pytest.raises(UsageError, match="not a regular file"):
        check_targets([folder], force=True)


def test_two_outputs_of_one_name_are_refused(folder):
    with pytest.raises(UsageError, match="two outputs"):
        check_targets([folder / "a", folder / "." / "a"], force=True)


def test_an_input_is_never_written_even_by_force_and_under_another_name(folder):
    (folder / "model.pt").write_text("weights")
    (folder / "alias.pt").symlink_to(folder / "model.pt")
    with pytest.raises(UsageError, match="never written"):
        check_targets([folder / "alias.pt"], force=True, inputs=[folder / "model.pt"])
