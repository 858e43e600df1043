"""What is overwritten and what is not, and who may read it afterwards."""

import errno
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_durability import MARK, gallery_of

from sfpose import FaceEmbedder, TemplateGallery, TemplateVerifier
from sfpose.bundle import VerificationBundle
from sfpose.cli import main
from sfpose.runtime.files import whole_file
from sfpose.runtime.folders import write_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="permissions are those of Linux")


def _saves():
    artifact = FaceEmbedder("plain")
    bundle = VerificationBundle(artifact, TemplateVerifier(weights="plain"))
    gallery = gallery_of("ann")
    return {"artifact": artifact, "bundle": bundle, "zip": bundle, "gallery": gallery}


def _contents(path):
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def _place(tmp_path, kind):
    return tmp_path / ("saved.zip" if kind == "zip" else "saved")


@pytest.mark.parametrize("old", ["artifact", "bundle", "gallery", "zip", "web", "photos", "empty"])
@pytest.mark.parametrize("new", ["artifact", "bundle", "gallery", "zip"])
def test_only_the_like_is_overwritten(tmp_path, new, old):
    saves, path = _saves(), _place(tmp_path, new)
    if old in saves:
        made = saves[old].save(tmp_path / _place(tmp_path / "made", old).name)
        made.rename(path)
    elif old == "photos":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("1.jpg", b"a photo")
    else:
        path.mkdir()
        if old == "web":
            (path / "manifest.json").write_text('{"name": "app", "start_url": "/"}')
            (path / "index.html").write_text("mine")
    before = _contents(path)
    if new == old:
        assert saves[new].save(path, overwrite=True) == path
    else:
        with pytest.raises(FileExistsError, match="must be of the same format, sfpose-"):
            saves[new].save(path, overwrite=True)
    assert _contents(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_commands_overwrite_no_gallery(people, tmp_path):
    path = gallery_of("ann").save(tmp_path / "door")
    before = _contents(path)
    assert main(["calibrate", str(people), "--out", str(path), "--overwrite"]) == 2
    assert _contents(path) == before


@pytest.mark.parametrize("kind", ["artifact", "bundle", "zip", "gallery"])
@pytest.mark.parametrize("more", ["notes.txt", "photos/1.jpg"])
def test_nobodys_other_files_are_overwritten(tmp_path, kind, more):
    saves, path = _saves(), _place(tmp_path, kind)
    saves[kind].save(path)
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(more, "mine")
    else:
        (path / more).parent.mkdir(exist_ok=True)
        (path / more).write_text("mine")
    before = _contents(path)
    with pytest.raises(FileExistsError, match=f"holds '{more[:6]}.*too, which would be lost"):
        saves[kind].save(path, overwrite=True)
    assert _contents(path) == before


@pytest.mark.parametrize("kind", ["artifact", "bundle", "zip", "gallery"])
@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o664, 0o400])
def test_permissions_stay_when_something_is_overwritten(tmp_path, kind, permissions):
    saves, path = _saves(), _place(tmp_path, kind)
    saves[kind].save(path)
    files = [path] if kind == "zip" else [*path.iterdir()]
    for file in files:
        file.chmod(permissions)
    if kind != "zip":
        path.chmod(0o2700)
    before = {file: file.stat().st_mode for file in [path, *files]}
    saves[kind].save(path, overwrite=True)
    assert {file: file.stat().st_mode for file in [path, *files]} == before


def test_new_files_of_a_private_folder_are_private(tmp_path):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    (path / "mark").chmod(0o600)
    write_folder(path, {"mark": MARK, "more": b""}, overwrite=True, marker="mark")
    assert (path / "more").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_who_owns_a_folder_owns_its_next_version(tmp_path):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    for file in (path, path / "mark"):
        os.chown(file, 65534, 65533)
    write_folder(path, {"mark": MARK, "more": b""}, overwrite=True, marker="mark")
    for file in (path, path / "mark", path / "more"):
        assert (file.stat().st_uid, file.stat().st_gid) == (65534, 65533)


def test_permissions_of_one_group_are_not_given_to_another(tmp_path, monkeypatch):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    (path / "mark").chmod(0o664)
    monkeypatch.setattr(os, "chown", lambda *_: os.stat("nothing of that name"))
    write_folder(path, {"mark": MARK}, overwrite=True, marker="mark")
    assert (path / "mark").stat().st_mode & 0o777 == 0o604


def test_a_file_is_replaced_with_its_permissions(tmp_path):
    path = tmp_path / "faces.npz"
    path.write_text("before")
    path.chmod(0o600)
    with whole_file(path) as part:
        part.write_text("after")
    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_folder_that_one_works_in_is_not_replaced(tmp_path, monkeypatch):
    path = gallery_of("ann").save(tmp_path / "door")
    monkeypatch.chdir(path)
    with pytest.raises(OSError, match=r"'.' cannot be .*must not hold the working directory"):
        gallery_of("bo").save(".", overwrite=True)
    assert list(TemplateGallery.load(".")) == ["ann"]
    gallery_of("bo").save("../window")
    monkeypatch.chdir("..")
    gallery_of("bo").save("door", overwrite=True)
    assert list(TemplateGallery.load("door")) == ["bo"]


def test_a_mount_point_is_not_replaced_and_told(tmp_path, monkeypatch):
    path = gallery_of("ann").save(tmp_path / "door")
    replace = os.replace

    def busy(source, target):
        if Path(source) == path:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(OSError, match=r"is as it was: .* must be no mount point; write into a"):
        gallery_of("bo").save(path, overwrite=True)
    assert list(TemplateGallery.load(path)) == ["ann"]
    assert list(tmp_path.iterdir()) == [path]


def test_saving_through_a_link_replaces_what_it_leads_to(tmp_path):
    gallery = TemplateGallery()
    gallery.add(["ann"], np.ones((1, 4)))
    gallery.save(tmp_path / "first")
    (tmp_path / "current").symlink_to("first")
    gallery.add(["bo"], np.ones((1, 4)))
    gallery.save(tmp_path / "current", overwrite=True)
    assert (tmp_path / "current").is_symlink()
    assert list(TemplateGallery.load(tmp_path / "first")) == ["ann", "bo"]


def test_what_is_written_is_as_private_as_the_user_asks(tmp_path):
    """The folder holds what identifies people: its permissions follow the umask."""
    program = (
        "import os, sys; os.umask(0o077);"
        "from sfpose.runtime.folders import write_folder;"
        "write_folder(sys.argv[1], {'mark': b''}, overwrite=False, marker='mark')"
    )
    path = tmp_path / "private"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.stat().st_mode & 0o077 == 0
    assert (path / "mark").stat().st_mode & 0o077 == 0


def _access_list(others, mask):
    """A POSIX access control list, version 2: owner rwx, user 1002, owning group nothing."""
    entries = [(0x01, 7, -1), (0x02, others, 1002), (0x04, 0, -1), (0x10, mask, -1), (0x20, 0, -1)]
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, allowed, who % 2**32) for tag, allowed, who in entries
    )


def test_access_lists_stay_when_something_is_overwritten(tmp_path):
    """The bits of the group are then the most that anybody in the list may do."""
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    name = "system.posix_acl_access"
    try:
        os.setxattr(path, name, _access_list(5, 5))
        os.setxattr(path / "mark", name, _access_list(4, 4))
    except (AttributeError, OSError):
        pytest.skip("no access control lists here")
    path.chmod(0o2750)
    before = {file: os.getxattr(file, name) for file in (path, path / "mark")}
    write_folder(path, {"mark": MARK, "more": b""}, overwrite=True, marker="mark")
    assert {file: os.getxattr(file, name) for file in before} == before
    assert path.stat().st_mode & 0o7777 == 0o2750
    assert os.getxattr(path / "more", name) == before[path / "mark"]
    with whole_file(path / "mark") as part:
        part.write_bytes(MARK)
    assert os.getxattr(path / "mark", name) == before[path / "mark"]


def test_lists_that_cannot_be_given_give_nobody_more(tmp_path, monkeypatch):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    (path / "mark").chmod(0o654)

    def refuse(*_arguments):
        raise OSError(errno.ENOTSUP, "no lists here")

    monkeypatch.setattr(os, "getxattr", lambda file, name: b"of somebody", raising=False)
    monkeypatch.setattr(os, "setxattr", refuse, raising=False)
    write_folder(path, {"mark": MARK}, overwrite=True, marker="mark")
    assert (path / "mark").stat().st_mode & 0o777 == 0o604


def test_an_old_version_that_cannot_be_removed_is_told(tmp_path, monkeypatch):
    """Whoever was to be removed is in it still."""
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    with monkeypatch.context() as broken:
        broken.setattr("sfpose.runtime.parts.shutil.rmtree", lambda *_, **__: None)
        with pytest.warns(
            RuntimeWarning, match=r"must be removed, and could not be: remove '.*part'"
        ):
            write_folder(path, {"mark": MARK, "new": b""}, overwrite=True, marker="mark")
    assert (path / "new").is_file()
    assert len([*tmp_path.iterdir()]) == 2
    write_folder(path, {"mark": MARK, "new": b""}, overwrite=True, marker="mark")
    assert [left.name for left in tmp_path.iterdir()] == ["one"]


@pytest.mark.skipif(os.name != "posix", reason="owners are asked for on POSIX systems")
def test_nobody_replaces_what_they_could_not_remove(tmp_path, monkeypatch):
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(
        PermissionError, match="you must own what is replaced, or may write into it"
    ):
        write_folder(path, {"mark": MARK, "new": b""}, overwrite=True, marker="mark")
    assert [file.name for file in path.iterdir()] == ["mark"]
    assert [left.name for left in tmp_path.iterdir()] == ["one"]


def test_an_access_list_gives_no_group_of_another_writer_anything(tmp_path, monkeypatch):
    """Where the owning group cannot be kept, its entry would be that of the writer's own."""
    path = write_folder(tmp_path / "one", {"mark": MARK}, overwrite=False, marker="mark")
    name = "system.posix_acl_access"
    try:
        for file in (path, path / "mark"):
            os.setxattr(file, name, _access_list(7, 7))
    except (AttributeError, OSError):
        pytest.skip("no access control lists here")
    monkeypatch.setattr(os, "chown", lambda *_: os.stat("nothing of that name"))
    write_folder(path, {"mark": MARK}, overwrite=True, marker="mark")
    for file in (path, path / "mark"):
        assert file.stat().st_mode & 0o070 == 0
        with pytest.raises(OSError, match="No data"):
            os.getxattr(file, name)
