# SPDX-License-Identifier: GPL-2.0-only
"""The cache of images: what is built when, what is never used, what is said."""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import shutil
from pathlib import Path

import pytest

from wgtrace.errors import LabError
from wgtrace.lab import debian, image

_Usage = collections.namedtuple("_Usage", "total used free")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache and the tools' absence out of the way of every test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(image, "BUILD_TOOLS", {})


def _small_image(content: str, *recipe: object) -> image.Image:
    def build(target: Path) -> None:
        (target / "file").write_text(content)

    return image.Image("small", ["small", *recipe], build, cache_bytes=1, scratch_bytes=1)


def test_another_package_is_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding a package to the recipe changes the image's name, so the old one is not used."""
    before = debian.userland_image("trixie").path
    monkeypatch.setattr(debian, "USERLAND_PACKAGES", [*debian.USERLAND_PACKAGES, "hello"])

    assert debian.userland_image("trixie").path != before


def test_every_kernel_has_its_own_image() -> None:
    """The kernels of the matrix do not share a kernel image; those of one release share a userland."""
    kernels = debian.kernels().values()

    assert len({debian.kernel_image(kernel).path for kernel in kernels}) == len(kernels)
    assert len({debian.userland_image(kernel.release).path for kernel in kernels}) == 2


def test_matrix_has_the_three_kernels() -> None:
    """kernels.toml has the names that the documents promise, with the BCC of their releases."""
    bcc = {name: kernel.bcc for name, kernel in debian.kernels().items()}

    assert bcc == {"6.1": "0.26", "6.12": "0.31", "latest": "0.31"}


def test_image_is_built_once() -> None:
    """A finished image is used again, even if building it would now give something else."""
    with image.held(_small_image("first"), print):
        pass
    with image.held(_small_image("second"), print) as path:
        assert (path / "file").read_text() == "first"


def test_rebuild_replaces_the_image() -> None:
    """Asked to rebuild, the image is made anew under the same name."""
    with image.held(_small_image("first"), print):
        pass
    with image.held(_small_image("second"), print, rebuild=True) as path:
        assert (path / "file").read_text() == "second"


def test_interrupted_build_leaves_no_image() -> None:
    """An interrupted build leaves nothing that could be taken for an image, and the next one builds."""

    def interrupted(target: Path) -> None:
        (target / "file").write_text("half")
        raise KeyboardInterrupt

    broken = dataclasses.replace(_small_image(""), build=interrupted)
    with pytest.raises(KeyboardInterrupt), image.held(broken, print):
        pass

    assert not [path for path in image.cache_dir().iterdir() if path.is_dir()]
    with image.held(_small_image("whole"), print) as path:
        assert (path / "file").read_text() == "whole"


def test_leftovers_of_a_killed_build_are_removed() -> None:
    """What a killed build left behind is not used and is gone after the next build."""
    leftover = image.cache_dir() / ".small-build-abc"
    leftover.mkdir()
    (leftover / "file").write_text("half")

    with image.held(_small_image("whole"), print) as path:
        assert (path / "file").read_text() == "whole"
    assert not leftover.exists()


def test_stale_image_goes_when_nobody_uses_it() -> None:
    """The image of an older recipe stays while a lab uses it and goes with the next build after."""
    with image.held(_small_image("old", 1), print) as old:
        with image.held(_small_image("new", 2), print):
            pass
        assert old.exists()
    with image.held(_small_image("newest", 3), print) as newest:
        there = {path for path in image.cache_dir().glob("small-*")}

    assert there == {newest}


def _hold_an_image(said: multiprocessing.Queue[str]) -> None:
    with image.held(_small_image("built by the other"), said.put):
        pass


def test_second_builder_waits_for_the_first() -> None:
    """Two labs that need the same image: one builds, the other says that it waits, then uses it."""
    context = multiprocessing.get_context("fork")
    said: multiprocessing.Queue[str] = context.Queue()
    other = context.Process(target=_hold_an_image, args=(said,), daemon=True)

    def build(target: Path) -> None:
        other.start()
        assert "waiting" in said.get(timeout=30)
        (target / "file").write_text("built by the first")

    first = dataclasses.replace(_small_image(""), build=build)
    with image.held(first, print) as path:
        other.join(30)
        content = (path / "file").read_text()

    assert (other.exitcode, content) == (0, "built by the first")


def test_disk_shortage_is_said_before_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little disk the build is not begun, and need, have and where are said."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(10 << 30, 10 << 30, 7 << 20))
    large = dataclasses.replace(_small_image(""), cache_bytes=500 << 20, scratch_bytes=0)

    with pytest.raises(LabError) as caught, image.held(large, print):
        pass

    assert "500 MB are needed and 7 MB are free in " in caught.value.what
    assert not list(image.cache_dir().glob("small-*"))


def test_missing_tools_are_named_with_the_command() -> None:
    """A missing host tool is an error that says which package to install."""
    with pytest.raises(LabError) as caught:
        image.require({"no-such-tool": "no-such-package"})

    assert caught.value.do == "sudo apt-get install no-such-package"


@pytest.mark.skipif(not shutil.which("mksquashfs"), reason="squashfs-tools are not installed")
def test_failure_of_mksquashfs_is_a_lab_error(tmp_path: Path) -> None:
    """A file system that cannot be written is a LabError, whatever the pipe to it does."""
    with pytest.raises(LabError), image.squashed(tmp_path / "no/such/dir", ()) as archive:
        archive.write(b"\0" * (1 << 20))
