"""What may be loaded as code, and from where: nobody else's, and nothing that is not whole."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import code_cache, scratch
from engine.code_cache import (
    cache_root,
    check_private,
    condemn,
    is_usable,
    make_private,
    open_own,
    publish,
    publish_folder,
    torch_caches,
    verdict,
)
from engine.scratch import Scratch, locked

CACHES = (
    *("PYTORCH_KERNEL_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR"),
    *("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_private(tmp_path / "cache" / "passes")
    return tmp_path / "cache" / "passes"


@pytest.fixture
def library(folder: Path, tmp_path: Path) -> Path:
    """A library that was published with what belongs to it."""
    drafts = [tmp_path / "x.so", tmp_path / "x.json"]
    for draft in drafts:
        draft.write_bytes(b"0123456789")
    publish(drafts, folder / "library.so")
    return folder / "library.so"


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it belong to another user than this one, who is not root either."""
    if os.getuid() == 0:
        os.chown(path, 54321, -1)
    monkeypatch.setattr(os, "getuid", lambda: 12345)


def test_a_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    """Red when a lax umask opens it, or a folder above it, to others."""
    before = os.umask(0)
    try:
        make_private(tmp_path / "above" / "cache")
    finally:
        os.umask(before)
    for made in (tmp_path / "above", tmp_path / "above" / "cache"):
        assert made.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("mode", "where"), [(0o770, ""), (0o777, ""), (0o1777, ""), (0o777, ".."), (0o777, "../..")]
)
def test_a_folder_into_which_others_can_put_code_is_refused(
    folder: Path, mode: int, where: str
) -> None:
    """Red when only the folder itself is looked at, or a sticky one is taken for safe."""
    (folder / where).resolve().chmod(mode)
    with pytest.raises(PermissionError, match="chmod go-w"):
        check_private(folder)


@pytest.mark.parametrize(("mode", "where"), [(0o755, ""), (0o1777, ".."), (0o775, "..")])
def test_a_folder_that_others_can_only_read_or_pass_is_not(
    folder: Path, mode: int, where: str
) -> None:
    """Red when /tmp, or a home that its user's own group can write to, is no place for a cache."""
    (folder / where).resolve().chmod(mode)
    check_private(folder)


@pytest.mark.parametrize("where", ["", ".."])
def test_a_folder_of_another_user_is_refused(
    folder: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_away((folder / where).resolve(), monkeypatch)
    with pytest.raises(PermissionError, match=r"another user.*cache_dir"):
        check_private(folder)


def test_what_a_link_leads_to_counts(folder: Path, tmp_path: Path) -> None:
    """Red when a link to an open folder passes for a closed one."""
    (tmp_path / "link").symlink_to(folder)
    check_private(tmp_path / "link")
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        check_private(tmp_path / "link")


def test_a_link_to_itself_is_no_folder(tmp_path: Path) -> None:
    """Red when whoever plants one ends the engine."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError):
        make_private(tmp_path / "loop" / "passes")
    assert not is_usable(tmp_path / "loop" / "library.so")


@pytest.mark.parametrize("mode", ["wb", "ab", "rb"])
def test_a_planted_link_is_not_followed(folder: Path, tmp_path: Path, mode: str) -> None:
    """Red when whoever plants `compiler.log` has another file emptied."""
    (victim := tmp_path / "victim").write_text("precious")
    (folder / "compiler.log").symlink_to(victim)
    with pytest.raises(PermissionError, match="link"):
        open_own(folder / "compiler.log", mode)
    assert victim.read_text() == "precious"


def cut(library: Path) -> None:
    os.truncate(library, 5)


def empty(library: Path) -> None:
    os.truncate(library, 0)


def change(library: Path) -> None:
    library.write_bytes(b"0123456780")


def cut_what_belongs_to_it(library: Path) -> None:
    os.truncate(library.with_suffix(".json"), 5)


def empty_the_digests(library: Path) -> None:
    library.with_name("library.so.sha256").write_text("")


def garble_the_digests(library: Path) -> None:
    library.with_name("library.so.sha256").write_bytes(b"\xff" * 100)


@pytest.mark.parametrize("spoil", [cut, empty, change, cut_what_belongs_to_it, empty_the_digests])
def test_code_that_is_not_whole_is_removed(
    library: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a start after a crash or on a full disk loads what it left."""
    assert is_usable(library)
    spoil(library)
    assert not is_usable(library)
    assert "is not used" in caplog.text and not library.exists()
    assert not is_usable(library)


def lose(library: Path) -> None:
    library.unlink()


def lose_the_digests(library: Path) -> None:
    library.with_name("library.so.sha256").unlink()


def lose_what_belongs_to_it(library: Path) -> None:
    library.with_suffix(".json").unlink()


def let_others_write(library: Path) -> None:
    library.chmod(0o666)


def put_a_link_there(library: Path) -> None:
    library.rename(library.with_suffix(".elsewhere"))
    library.symlink_to(library.with_suffix(".elsewhere"))


def open_the_folder(library: Path) -> None:
    library.parent.chmod(0o777)


@pytest.mark.parametrize(
    "spoil",
    [
        *(lose, lose_the_digests, lose_what_belongs_to_it, garble_the_digests),
        *(let_others_write, put_a_link_there, open_the_folder),
    ],
)
def test_code_that_may_be_somebody_elses_or_was_never_finished_is_not_used(
    library: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(library)
    assert not is_usable(library)


def test_code_of_somebody_else_is_not_used(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_away(library, monkeypatch)
    assert not is_usable(library)


def test_what_is_published_again_is_usable_again(library: Path, tmp_path: Path) -> None:
    cut(library)
    (tmp_path / "y.so").write_bytes(b"anew")
    publish([tmp_path / "y.so"], library)
    assert is_usable(library) and library.read_bytes() == b"anew"


def test_what_is_made_anew_while_it_is_judged_is_not_removed(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when who has read the old digests deletes the file that has just been put there."""
    cut(library)
    (tmp_path / "y.so").write_bytes(b"anew")
    of, drafts = code_cache._digest, [[tmp_path / "y.so"]]

    def digest(path: Path) -> str:
        found = of(path)
        if drafts:
            publish(drafts.pop(), library)
        return found

    monkeypatch.setattr(code_cache, "_digest", digest)
    is_usable(library)
    assert not drafts and is_usable(library) and library.read_bytes() == b"anew"


def test_nothing_is_removed_while_somebody_publishes_there(library: Path) -> None:
    """Red when who finds a file half replaced takes it away under who replaces it."""
    cut(library)
    with locked(library.parent):
        assert not is_usable(library) and library.exists()
    assert not is_usable(library) and not library.exists()


def drafted(folder: Path, content: bytes) -> Path:
    """A finished folder of two files, which only its user can enter."""
    folder.mkdir(mode=0o700)
    for name in ("first", "second"):
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_is_usable_while_all_of_its_files_are_whole(folder: Path, tmp_path: Path) -> None:
    """Red when only the file that is asked for is looked at, or what is left stays in the way."""
    made = folder / "made"
    publish_folder(drafted(tmp_path / "a", b"a"), made / "first")
    assert is_usable(made / "first") and (made / "second").read_bytes() == b"a"
    publish_folder(drafted(tmp_path / "b", b"b"), made / "first")
    assert (made / "first").read_bytes() == b"a"
    (made / "second").unlink()
    assert not is_usable(made / "first")
    publish_folder(drafted(tmp_path / "c", b"c"), made / "first")
    assert is_usable(made / "first") and (made / "second").read_bytes() == b"c"


def test_what_is_whole_stays_when_it_is_made_a_second_time(library: Path, tmp_path: Path) -> None:
    """Red when a library is exchanged between the check and the loading of what belongs to it."""
    (tmp_path / "y.so").write_bytes(b"as good")
    publish([tmp_path / "y.so"], library)
    assert is_usable(library) and library.read_bytes() == b"0123456789"


def test_the_remedy_against_an_open_folder_is_one_that_its_user_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when who is not root is told to close root's folder, as a volume of Kubernetes is."""
    (tmp := folder.parent).chmod(0o777)
    with pytest.raises(PermissionError, match=rf"chmod go-w {tmp}, or name a folder .* cache_dir"):
        check_private(folder)
    lstat = Path.lstat
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(
        Path, "lstat", lambda path: os.stat_result((*lstat(path)[:4], 0, *lstat(path)[5:]))
    )
    with pytest.raises(PermissionError, match=f"{tmp}: name a folder of your own in cache_dir"):
        check_private(folder)


def test_what_is_condemned_goes_with_all_its_parts_and_verdicts_stay(library: Path) -> None:
    """Red when parts of what is gone fill the disk, or a second judge wipes out the first."""
    for judge in (scratch, code_cache):
        condemn(library, judge, "wrong")
    assert {each.suffix for each in library.parent.iterdir()} == {".refused"}
    assert verdict(library, scratch) == verdict(library, code_cache) == "wrong"
    assert not is_usable(library)


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no caches of torch's; what is done to it is undone."""
    for variable in CACHES:
        monkeypatch.setenv(variable, "")
    return monkeypatch


def test_torch_keeps_code_in_our_cache(unset: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Red when what anybody has put among the temporary files is loaded."""
    chosen = torch_caches(tmp_path)
    assert {Path(chosen[variable]).parent for variable in CACHES} == {tmp_path / "torch"}
    assert (tmp_path / "torch").stat().st_mode & 0o777 == 0o700


def test_a_private_folder_that_the_environment_names_stays_in_use(
    unset: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    """Red when a shared one does, or a name that means another folder in another working folder."""
    (shared := tmp_path / "shared").mkdir()
    shared.chmod(0o1777)
    unset.chdir(tmp_path)
    unset.setenv("TRITON_CACHE_DIR", str(folder))
    unset.setenv("TORCHINDUCTOR_CACHE_DIR", str(shared))
    unset.setenv("TORCH_EXTENSIONS_DIR", "relative")
    chosen = torch_caches(tmp_path)
    assert chosen["TRITON_CACHE_DIR"] == str(folder)
    assert chosen["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "torch" / "inductor")
    assert chosen["TORCH_EXTENSIONS_DIR"] == str(tmp_path / "torch" / "extensions")


def test_a_configured_cache_wins_over_what_was_chosen_before_and_the_users_over_both(
    unset: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    """Red when what one of our commands has set for itself passes for its user's wish."""
    unset.setenv("TRITON_CACHE_DIR", str(folder))
    for root in (tmp_path / "default", tmp_path / "configured"):
        chosen = torch_caches(root)
        assert chosen.pop("TRITON_CACHE_DIR") == str(folder)
        assert {Path(each).parent for each in chosen.values()} == {root / "torch"}
        for variable, each in chosen.items():
            unset.setenv(variable, each)


def test_without_a_cache_torch_keeps_code_in_a_folder_of_the_process(
    unset: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    """Red when a read-only container, or a planted cache folder, sends it back to /tmp."""
    unset.setattr(tempfile, "tempdir", str(tmp_path))
    folder.chmod(0o777)
    chosen = Path(torch_caches(folder)["TORCHINDUCTOR_CACHE_DIR"]).parent
    assert chosen.name.startswith("stagetree-scratch.") and chosen.stat().st_mode & 0o777 == 0o700


def test_where_nothing_can_be_written_torch_keeps_nothing(
    unset: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Red when a read-only container ends the engine, or torch falls back on its default."""
    unset.setattr("engine.code_cache._own_folder", lambda: Scratch(tmp_path / "gone"))
    (tmp_path / "file").write_text("")
    chosen = torch_caches(tmp_path / "file")
    assert not any(Path(chosen[variable]).parent.is_dir() for variable in CACHES)


def test_a_cache_is_never_in_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when who has no home, or names a relative one, runs what the working folder has."""
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "")
    assert cache_root().is_absolute()
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_root().is_absolute()
