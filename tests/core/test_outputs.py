"""Outputs are there whole or not at all."""

import os

import pytest

from tokenlayer.core.errors import BadOption, NoRoom, OutputExists
from tokenlayer.core.outputs import check_room, fresh_folder, write_text


def listed(folder):
    return sorted(p.name for p in folder.iterdir())


def write_and_raise(out, fault):
    with fresh_folder(out, force=True) as folder:
        (folder / "config.json").write_text("new")
        raise fault


def test_a_folder_appears_only_at_the_end(tmp_path):
    with fresh_folder(tmp_path / "deep" / "out") as folder:
        (folder / "config.json").write_text("{}")
        assert not (tmp_path / "deep" / "out").exists()
    assert listed(tmp_path / "deep") == ["out"]
    assert listed(tmp_path / "deep" / "out") == ["config.json"]
    assert (tmp_path / "deep" / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_goes_wrong_nothing_half_written_stays(fault, tmp_path):
    old = tmp_path / "out"
    old.mkdir()
    (old / "config.json").write_text("old")
    with pytest.raises(fault):
        write_and_raise(old, fault)
    assert listed(tmp_path) == ["out"]
    assert (old / "config.json").read_text() == "old"


def test_force_replaces_all_of_a_folder_that_we_would_have_written(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    (out / "stale.bin").write_text("old")
    with fresh_folder(out, force=True) as folder:
        (folder / "config.json").write_text("new")
    assert listed(out) == ["config.json"]
    assert (out / "config.json").read_text() == "new"
    assert listed(tmp_path) == ["out"]


def test_leftovers_of_a_killed_run_are_removed_and_those_of_others_are_not(tmp_path):
    (tmp_path / ".out.partial-abc").mkdir()
    (tmp_path / ".other.partial-abc").mkdir()
    with fresh_folder(tmp_path / "out"):
        pass
    assert listed(tmp_path) == [".other.partial-abc", "out"]


def test_an_empty_folder_may_be_filled_without_force(tmp_path):
    (tmp_path / "out").mkdir()
    with fresh_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert listed(tmp_path / "out") == ["a"]


@pytest.mark.parametrize(
    ("names", "force", "said"),
    [
        (["config.json", "b"], False, "holds 2 files"),
        (["thesis.tex"], True, "does not look like a checkpoint"),
    ],
)
def test_folders_that_are_taken_are_refused_before_any_work(names, force, said, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_text("mine")
    with pytest.raises(OutputExists, match=said), fresh_folder(out, force=force):
        pytest.fail("the block must not run")
    assert listed(out) == sorted(names)


def test_files_and_links_are_never_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(OutputExists, match="is not a folder"), fresh_folder(tmp_path / name, force=True):
            pytest.fail("the block must not run")


def test_a_parent_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOption, match="cannot write into"), fresh_folder(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


def test_room_is_checked_where_the_folder_will_be(tmp_path, monkeypatch):
    check_room(tmp_path / "not" / "there", 1, "the checkpoint")
    with pytest.raises(NoRoom, match=r"the checkpoint needs 1,000,000,000,000 MB"):
        check_room(tmp_path / "not" / "there", 10**18, "the checkpoint")


def test_a_text_file_is_old_or_new_but_never_half(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text(path, "old ä")
    assert path.read_text(encoding="utf-8") == "old ä"
    assert path.stat().st_mode & 0o777 == 0o644

    def broken(_from, _to):
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk gone"):
        write_text(path, "new")
    assert listed(tmp_path) == ["a.json"]
    assert path.read_text(encoding="utf-8") == "old ä"
