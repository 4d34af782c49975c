from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from micropod_img import run
from micropod_img.cancellation import Cancellation, CancelledError
from micropod_img.digest import sha256_of
from micropod_img.errors import DiskError, IntegrityError, MicropodError, ToolError, UnsafeError
from micropod_img.rootfs import umoci
from micropod_img.rootfs.layer_blobs import LayerBlob
from tests.rootfs.gate_checks import MIB
from tests.rootfs.tar_layers import END, GNU, header, long_name, stored, tree
from tests.rootfs.unpacking import archive_of, as_root, blob_of, config_of, new_root, unpack
from tests.support.layers import Entry, directory, symlink
from tests.support.processes import missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_subprocess import FakeProcess

    from micropod_img.rootfs.umoci import UnpackRoot


@pytest.mark.parametrize(
    ("diff_ids", "code"),
    [
        ([], "layer-count"),
        (["a"], "layer-count"),
        (["a", "b", "b"], "layer-count"),
        (["b", "a"], "diff-id-mismatch"),
    ],
)
def test_a_configuration_of_other_layers_is_refused_before_umoci_starts(
    diff_ids: list[str], code: str, root: UnpackRoot, tmp_path: Path, fp: FakeProcess
) -> None:
    layers = {name: stored(archive_of([Entry(name)])) for name in ("a", "b")}
    blobs = [blob_of(made.content, made.diff_id, tmp_path) for made in layers.values()]
    with pytest.raises(IntegrityError) as caught:
        root.unpack_image(blobs, config=config_of(*(layers[name].diff_id for name in diff_ids)))
    assert caught.value.code == code
    assert not fp.calls


class TestContainment:
    """Even with no gate before it, umoci reaches nothing but the layers and the directory that it fills."""

    HOSTILE: dict[str, list[list[Entry | bytes]]] = {  # noqa: RUF012
        "names that lead out": [[header(b"../../../../escape"), header(b"/../../escape"), header(b"a/../../escape")]],
        "a hard link out": [[header(b"h", b"1", link=b"../../../secret"), header(b"i", b"1", link=b"/../secret")]],
        "a whiteout of the parent": [[header(b".wh...")]],
        "a whiteout of the parent of a directory": [[header(b"a/b/.wh...")]],
        "a whiteout of the directory": [[header(b".wh..")]],
        "a whiteout through a symlink": [[symlink("up", "..")], [header(b"up/.wh.secret"), header(b"up/.wh...")]],
        "a file through a symlink": [[symlink("up", "../..")], [Entry("up/escape", b"1"), Entry("up/secret", b"2")]],
        "a file through an absolute symlink": [[symlink("abs", "/")], [Entry("abs/umoci", b"1")]],
        "the root as a symlink": [[header(b"./", b"2", link=b"..")], [Entry("escape")]],
        "a symlink over a directory": [[directory("d"), symlink("d", "../.."), Entry("d/escape")]],
        "a device that is a whiteout": [[header(b"d", b"3")]],
    }

    @pytest.mark.parametrize("archives", HOSTILE.values(), ids=HOSTILE.keys())
    def test_nothing_outside_is_read_or_written(
        self, archives: list[list[Entry | bytes]], tmp_path: Path, program: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        root = new_root(outside / "work", program)
        (outside / "secret").write_bytes(b"secret")
        layers = [stored(archive_of(parts)) for parts in archives]
        blobs = [blob_of(made.content, made.diff_id, outside) for made in layers]
        before = {path: node for path, node in tree(outside).items() if not path.startswith(b"work/")}
        with contextlib.suppress(MicropodError):
            root.unpack_image(blobs, config=config_of(*(made.diff_id for made in layers)))
        after = {path: node for path, node in tree(outside).items() if not path.startswith(b"work/")}
        # A blob has one more link while umoci's private image stands beside the rootfs.
        assert {path: (node.kind, node.mode, node.content) for path, node in after.items()} == {
            path: (node.kind, node.mode, node.content) for path, node in before.items()
        }
        assert after[b"secret"].links == 1
        assert all(b"secret" not in node.content for path, node in tree(outside / "work").items() if b"rootfs" in path)

    def test_umoci_has_the_private_directory_as_its_root_and_nothing_of_our_environment(
        self, root: UnpackRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET", "secret")
        calls: list[tuple[list[str], dict[str, str]]] = []

        def record(argv: list[str], *, env: dict[str, str], **_: object) -> run.Completed:
            calls.append((argv, env))
            return run.Completed(0, b"", "")

        monkeypatch.setattr(run, "run", record)
        made = stored(END)
        root.unpack_layer(blob_of(made.content, made.diff_id, tmp_path))
        [(argv, env)] = calls
        assert env == {"GOGC": "400"}
        assert argv[argv.index(str(root.rootfs.parent)) - 1].endswith("/chroot")
        assert argv[argv.index(str(root.rootfs.parent)) + 1] == "/umoci"


class TestErrors:
    @pytest.mark.parametrize(
        ("parts", "error", "said"),
        [
            ([header(b"h", b"1", link=b"nowhere")], IntegrityError, "has a hard link to a file that is not there"),
            ([header(b"a" * 99 + b"b" * 1, prefix=b"p" * 155), header(b"x", b"g")], UnsafeError, "cannot be unpacked"),
            ([symlink("l", "l"), Entry("l/x")], UnsafeError, "has an entry that cannot be unpacked"),
            ([long_name(b"n" * 256) + header(b"x", magic=GNU)], UnsafeError, "has an entry that cannot be unpacked"),
            ([header(b"", b"2", link=b"x")], UnsafeError, "has an entry that cannot be unpacked"),
            ([b"x" * 1024], IntegrityError, "cannot be decompressed or is no archive"),
        ],
    )
    def test_what_umoci_refuses_is_said_with_the_layer(
        self, parts: list[Entry | bytes], error: type[MicropodError], said: str, root: UnpackRoot, tmp_path: Path
    ) -> None:
        made = stored(archive_of(parts))
        with pytest.raises(error) as caught:
            root.unpack_layer(blob_of(made.content, made.diff_id, tmp_path))
        assert said in caught.value.message
        assert made.digest in caught.value.message
        assert caught.value.detail is not None
        assert caught.value.detail.replace("\n", "").isprintable()

    @pytest.mark.parametrize(
        ("damage", "code"),
        [
            (lambda blob: LayerBlob(blob.path, blob.digest, sha256_of(b"other")), "diff-id-mismatch"),
            (lambda blob: LayerBlob(blob.path, sha256_of(b"other"), blob.diff_id), "digest-mismatch"),
        ],
        ids=["diff ID", "digest"],
    )
    def test_a_layer_that_is_not_what_it_says_is_an_error_of_integrity(
        self, damage: Callable[[LayerBlob], LayerBlob], code: str, root: UnpackRoot, tmp_path: Path
    ) -> None:
        made = stored(archive_of([Entry("a", os.urandom(3000))]))
        with pytest.raises(IntegrityError) as caught:
            root.unpack_layer(damage(blob_of(made.content, made.diff_id, tmp_path)))
        assert caught.value.code == code

    @pytest.mark.parametrize(
        "damage",
        [lambda content: content[:-9], lambda content: content + bytes(64), lambda _: b"\x1f\x8b"],
        ids=["truncated", "zeros after it", "two bytes"],
    )
    def test_a_damaged_layer_is_an_error_of_integrity(
        self, damage: Callable[[bytes], bytes], root: UnpackRoot, tmp_path: Path
    ) -> None:
        made = stored(archive_of([Entry("a", os.urandom(3000))]))
        with pytest.raises(IntegrityError) as caught:
            root.unpack_layer(blob_of(damage(made.content), made.diff_id, tmp_path))
        assert caught.value.code == "corrupt-layer"

    @as_root
    def test_a_full_disk_is_said(self, tmp_path: Path, program: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=11m", "tmpfs", disk], check=True)
        try:
            root = new_root(disk / "work", program)
            made = stored(archive_of([Entry("a", bytes(9 * MIB))]))
            with pytest.raises(DiskError) as caught:
                root.unpack_layer(blob_of(made.content, made.diff_id, tmp_path))
            assert caught.value.code == "disk-full"
            assert str(root.rootfs) in caught.value.message
        finally:
            subprocess.run(["/usr/bin/umount", disk], check=True)

    @as_root
    def test_a_disk_that_has_no_room_for_the_program_is_said(self, tmp_path: Path, program: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
        try:
            with pytest.raises(DiskError) as caught:
                new_root(disk / "work", program)
            assert caught.value.code == "disk-full"
        finally:
            subprocess.run(["/usr/bin/umount", disk], check=True)

    @as_root
    def test_a_filesystem_that_runs_no_programs_is_said(self, tmp_path: Path, program: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", disk], check=True)
        try:
            made = stored(END)
            with pytest.raises(ToolError) as caught:
                new_root(disk / "work", program).unpack_layer(blob_of(made.content, made.diff_id, tmp_path))
            assert "noexec" in (caught.value.hint or "")
        finally:
            subprocess.run(["/usr/bin/umount", disk], check=True)

    @pytest.mark.parametrize(
        "failure",
        [
            (1, "create rootfs: x: disk quota exceeded", DiskError, "disk-full"),
            (1, "create rootfs: x: read-only file system", DiskError, "read-only"),
            (1, "create rootfs: mknod: operation not permitted", DiskError, "permission"),
            (1, "unpack entry: h: link: operation not permitted", UnsafeError, "unsafe-layer"),
            (1, "restore xattr metadata: /rootfs/a: invalid argument", UnsafeError, "unsafe-layer"),
            (1, "restore xattr metadata: /rootfs/a: operation not permitted", DiskError, "permission"),
            (1, "create rootfs: x: permission denied", DiskError, "permission"),
            (1, "create rootfs: write /rootfs/a: input/output error", DiskError, "disk"),
            (1, "restore chown metadata: /rootfs/a: lchown /rootfs/a: invalid argument", DiskError, "owner-not-mapped"),
            (
                125,
                "chroot: cannot change root directory to '/x': Operation not permitted",
                ToolError,
                "tool-not-contained",
            ),
            (1, "unshare: unshare failed: Operation not permitted", ToolError, "tool-not-contained"),
            (2, "panic: runtime error: index out of range [1] with length 1", ToolError, "umoci-failed"),
            (1, "entry : no space left on device/x: something new", ToolError, "umoci-failed"),
            (-9, "", ToolError, "tool-killed"),
        ],
    )
    def test_what_umoci_says_is_understood_and_kept(
        self,
        failure: tuple[int, str, type[MicropodError], str],
        root: UnpackRoot,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        status, stderr, error, code = failure
        completed = run.Completed(status, b"", f"   - {stderr}\x1b[0m\n" if code == "umoci-failed" else f"{stderr}\n")
        monkeypatch.setattr(run, "run", lambda *_, **__: completed)
        made = stored(END)
        with pytest.raises(error) as caught:
            root.unpack_layer(blob_of(made.content, made.diff_id, tmp_path))
        assert caught.value.code == code
        assert stderr in (caught.value.detail or "")
        assert "\x1b" not in (caught.value.detail or "")

    def test_a_missing_program_is_said(self, root: UnpackRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(umoci, "_PROGRAM_PATH", str(tmp_path))
        made = stored(END)
        with pytest.raises(ToolError) as caught:
            root.unpack_layer(blob_of(made.content, made.diff_id, tmp_path))
        assert caught.value.code == "tool-missing"

    def test_it_can_be_called_off(self, root: UnpackRoot, tmp_path: Path) -> None:
        made = stored(archive_of([header(b"a%d" % number) for number in range(20_000)]))
        blob = blob_of(made.content, made.diff_id, tmp_path)
        cancellation = Cancellation()
        threading.Timer(0.1, cancellation.cancel).start()
        with pytest.raises(CancelledError):
            root.unpack_layer(blob, cancellation=cancellation)
        assert len(list(root.rootfs.iterdir())) < 20_000


class TestOrdinaryUsers:
    """Owners that cannot be given are kept in an attribute, devices become empty files."""

    PARTS: list[Entry | bytes] = [Entry("a", b"1", uid=1000), Entry("d/b", mode=0o4711), header(b"null", b"3", major=1)]  # noqa: RUF012

    def test_root_of_a_namespace_of_one_user_gets_all_that_it_may(self, tmp_path: Path, program: Path) -> None:
        made = stored(archive_of(self.PARTS))
        blob = blob_of(made.content, made.diff_id, tmp_path)
        code = (
            "import sys; from pathlib import Path; from micropod_img.rootfs.layer_blobs import LayerBlob\n"
            "from micropod_img.rootfs.umoci import UnpackRoot\n"
            "work, program, blob, digest, diff_id = sys.argv[1:]\n"
            "Path(work).mkdir(mode=0o700)\n"
            "root = UnpackRoot(Path(work), umoci=Path(program))\n"
            "root.unpack_layer(LayerBlob(Path(blob), digest, diff_id))\n"
        )
        arguments: list[str | Path] = [tmp_path / "work", program, blob.path, blob.digest, blob.diff_id]
        done = subprocess.run(
            ["/usr/bin/unshare", "--user", "--map-root-user", sys.executable, "-c", code, *arguments],
            check=False,
            capture_output=True,
            text=True,
        )
        if "unshare failed" in done.stderr:
            missing(f"no user namespaces here: {done.stderr}")
        assert done.stderr == ""
        self.look(tmp_path / "work/rootfs", owner=os.getuid())

    @as_root
    def test_an_ordinary_user_gets_all_that_he_may(self, program: Path) -> None:
        nobody = 65534
        made = stored(archive_of(self.PARTS))
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            blob = blob_of(made.content, made.diff_id, directory)
            copy = directory / "umoci"
            copy.write_bytes(program.read_bytes())
            os.chown(directory, nobody, nobody)
            os.chown(blob.path, nobody, nobody)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.setgroups([])
                    os.setresgid(nobody, nobody, nobody)
                    os.setresuid(nobody, nobody, nobody)
                    new_root(directory / "work", copy).unpack_layer(blob)
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            self.look(directory / "work/rootfs", owner=nobody)

    @staticmethod
    def look(rootfs: Path, *, owner: int) -> None:
        found = tree(rootfs)
        assert {path: (node.kind, node.owner[0], node.content) for path, node in found.items()} == {
            b"a": ("file", owner, b"1"),
            b"d": ("directory", owner, b""),
            b"d/b": ("file", owner, b""),
            b"null": ("file", owner, b""),
        }
        assert found[b"d/b"].mode == 0o4711
        assert [name for name, _ in found[b"a"].xattrs] == ["user.rootlesscontainers"]


@as_root
def test_a_store_on_another_filesystem_is_read_all_the_same(tmp_path: Path, program: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "tmpfs", disk], check=True)
    try:
        root = new_root(disk / "work", program)
        assert set(unpack(root, tmp_path, [Entry("a")])) == {b"a"}
    finally:
        subprocess.run(["/usr/bin/umount", disk], check=True)
