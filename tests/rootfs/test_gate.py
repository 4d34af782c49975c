from __future__ import annotations

import io

import pytest

from micropod_img.digest import sha256_of
from micropod_img.errors import UnsupportedError
from micropod_img.limits import Limits
from micropod_img.rootfs.gate import GateReport, check_layer
from tests.rootfs.gate_checks import SOME_DIGEST, check, refusal, sparse
from tests.rootfs.tar_layers import END, GNU, V7, base256, extended, file, header, long_name, octal


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            b"..",
            b"../escape",
            b"/../escape",
            b"./../escape",
            b"a/../b",
            b"a/..",
            b"a/../",
            b"a//..//b",
            b"a/\n/../b",
        ],
    )
    @pytest.mark.parametrize("kind", [b"0", b"1", b"2", b"3", b"5", b"6"])
    def test_a_name_that_leads_out_of_the_root_is_refused(self, name: bytes, kind: bytes) -> None:
        fields = {"link": b"x"} if kind in (b"1", b"2") else {}
        if name.endswith(b"/") and kind != b"5":
            name = name.rstrip(b"/")
        assert "leads out of the root" in refusal(header(name, kind, **fields))

    @pytest.mark.parametrize("base", [b".wh.", b".wh..", b".wh..."])
    @pytest.mark.parametrize("parent", [b"", b"/", b"./", b"a/", b"a//b/./"])
    def test_a_whiteout_of_no_file_is_refused(self, parent: bytes, base: bytes) -> None:
        assert "is a whiteout of no file" in refusal(header(parent + base))

    @pytest.mark.parametrize("name", [b".wh./", b".wh.../", b"a/.wh../", b"a/.wh../.", b".wh.//"])
    def test_a_whiteout_of_no_file_is_refused_as_a_directory_too(self, name: bytes) -> None:
        assert "is a whiteout of no file" in refusal(header(name, b"5"))

    @pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"6"])
    def test_a_whiteout_of_no_file_is_refused_whatever_it_is(self, kind: bytes) -> None:
        assert "is a whiteout of no file" in refusal(header(b"a/.wh...", kind, link=b"x"))

    @pytest.mark.parametrize("name", [b".wh.a/b", b"a/.wh.b/c", b".wh..wh.plnk/1.2", b".wh..wh..opq/x"])
    def test_an_entry_inside_of_a_whiteout_is_refused(self, name: bytes) -> None:
        assert "lies inside of a whiteout" in refusal(header(name))

    @pytest.mark.parametrize("name", [b"", b"/", b".", b"./", b"/./"])
    @pytest.mark.parametrize("kind", [b"0", b"1", b"2", b"6"])
    def test_the_root_is_refused_as_anything_but_a_directory(self, name: bytes, kind: bytes) -> None:
        message = refusal(header(name, kind, link=b"x"))
        assert "takes the place of the root directory" in message or "has the name of a directory" in message

    def test_a_directory_without_a_name_is_refused(self) -> None:
        assert "takes the place of the root directory" in refusal(header(b"", b"5"))

    @pytest.mark.parametrize("kind", [b"0", b"1", b"2", b"3", b"6"])
    @pytest.mark.parametrize("name", [b"a/", b"a/."])
    def test_a_name_of_a_directory_for_something_else_is_refused(self, name: bytes, kind: bytes) -> None:
        assert "has the name of a directory and is none" in refusal(header(name, kind, link=b"x"))

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            (b"../\x1b[31mred", r"'../\x1b[31mred'"),
            (b"../a\nb", r"'../a\nb'"),
            (b"../\xff", r"'../\xff'"),
            ("../\u202etxt".encode(), r"'../\u202etxt'"),
            ("../grün".encode(), "'../grün'"),
            (b"../\x9b31m", r"'../\x9b31m'"),
            (b"../" + b"a" * 90 + b"\x07", "'../" + "a" * 90 + r"\x07'"),
        ],
    )
    def test_a_refused_name_is_shown_without_what_a_terminal_acts_on(self, name: bytes, shown: str) -> None:
        assert f"entry {shown} leads" in refusal(header(name))

    def test_a_very_long_refused_name_is_shown_in_part(self) -> None:
        message = refusal(long_name(b"../" + b"a" * 3000) + header(b"x", magic=GNU))
        assert "aaa…'" in message
        assert len(message) < 500


class TestLinks:
    @pytest.mark.parametrize("target", [b"../x", b"/../x", b"a/../../x", b"..", b"a/.."])
    def test_a_hard_link_out_of_the_root_is_refused(self, target: bytes) -> None:
        message = refusal(header(b"link", b"1", link=target))
        assert "'link'" in message
        assert "leads out of the root" in message

    @pytest.mark.parametrize("target", [b"/", b".", b"./", b".wh.x", b"a/.wh.x", b".wh.d/x"])
    def test_a_hard_link_to_no_file_is_refused(self, target: bytes) -> None:
        assert "which is no file" in refusal(header(b"link", b"1", link=target))

    @pytest.mark.parametrize("kind", [b"1", b"2"])
    def test_a_link_to_nothing_is_refused(self, kind: bytes) -> None:
        assert "links to nothing" in refusal(header(b"link", kind))

    @pytest.mark.parametrize("target", [b"../../etc/passwd", b"/etc/passwd", b"..", b"/", b".", b".wh.x", b"\x1b\n"])
    def test_a_symlink_may_say_what_it_likes(self, target: bytes) -> None:
        assert check(header(b"link", b"2", link=target) + END).entries == 1

    @pytest.mark.parametrize("kind", [b"1", b"2"])
    def test_a_link_to_a_name_that_no_kernel_takes_is_refused(self, kind: bytes) -> None:
        archive = long_name(b"a" * 4096, b"K") + header(b"link", kind, magic=GNU)
        assert "links to a name of more than 4095 bytes" in refusal(archive)


class TestAttributes:
    @pytest.mark.parametrize("kind", [b"2", b"3", b"6"])
    def test_a_user_attribute_of_what_cannot_have_one_is_refused(self, kind: bytes) -> None:
        message = refusal(extended({b"SCHILY.xattr.user.a": b"1"}) + header(b"x", kind, link=b"y", major=1))
        assert "'x' sets 'user.a', which only files and directories can have" in message

    @pytest.mark.parametrize("kind", [b"2", b"6"])
    def test_other_attributes_may_be_of_anything(self, kind: bytes) -> None:
        assert check(
            extended({b"SCHILY.xattr.security.selinux": b"1"}) + header(b"x", kind, link=b"y") + END
        ).has_xattrs

    @pytest.mark.parametrize(("name", "size"), [(b"", 1), (b"user." + b"a" * 251, 1), (b"user.a", (1 << 16) + 1)])
    def test_an_attribute_that_no_kernel_takes_is_refused(self, name: bytes, size: int) -> None:
        message = refusal(extended({b"SCHILY.xattr." + name: b"v" * size}) + header(b"x"))
        assert "'x' sets an attribute with a name or value that no kernel takes" in message

    def test_an_attribute_of_the_largest_size_passes(self) -> None:
        largest = extended({b"SCHILY.xattr.user." + b"a" * 250: b"v" * (1 << 16)})
        assert check(largest + header(b"x") + END).has_xattrs


class TestOverlay:
    @pytest.mark.parametrize(
        "xattr",
        [
            b"trusted.overlay.opaque",
            b"trusted.overlay.redirect",
            b"trusted.overlay.overlay.opaque",
            b"trusted.overlay.metacopy",
            b"user.overlay.whiteout",
            b"user.overlay.",
            b"user.fuseoverlayfs.opaque",
            b"user.containers.override_stat",
        ],
    )
    @pytest.mark.parametrize("vendor", [b"SCHILY", b"LIBARCHIVE"])
    @pytest.mark.parametrize("name", [b"dir", b".wh.gone"])
    def test_an_attribute_of_the_overlay_is_refused(self, vendor: bytes, xattr: bytes, name: bytes) -> None:
        message = refusal(extended({vendor + b".xattr." + xattr: b"y"}) + header(name, b"5"))
        assert f"sets '{xattr.decode()}', which belongs to the overlay filesystem" in message

    @pytest.mark.parametrize("magic", [b"ustar\x0000", GNU, V7])
    def test_a_device_that_is_a_whiteout_is_refused(self, magic: bytes) -> None:
        message = refusal(header(b"dev/null", b"3", magic=magic))
        assert "'dev/null' is a device that the overlay filesystem takes for a whiteout" in message

    @pytest.mark.parametrize("number", [base256(1 << 32, 8), base256(1 << 40, 8), octal(4096, 8), octal(1 << 20, 8)])
    def test_a_device_whose_number_would_be_cut_to_another_is_refused(self, number: bytes) -> None:
        assert "device whose number is out of range" in refusal(header(b"dev", b"3", major=number))

    def test_a_negative_device_number_is_refused(self) -> None:
        assert "device whose number is out of range" in refusal(header(b"dev", b"4", minor=base256(-1, 8)))

    @pytest.mark.parametrize(("kind", "mode"), [(b"3", 0o040644), (b"6", 0o020644), (b"4", 0o100644), (b"3", 0o060600)])
    def test_a_mode_that_would_make_another_type_of_it_is_refused(self, kind: bytes, mode: int) -> None:
        assert "has the mode of another type" in refusal(header(b"dev", kind, mode=mode, major=1, minor=3))


class TestLimits:
    @pytest.mark.parametrize(
        ("limits", "archive", "said"),
        [
            (Limits(max_entries=2), header(b"a") + header(b"b") + header(b"c"), "'c' is beyond the 2 entries"),
            (Limits(max_file_size=9), file(b"a", b"0" * 9) + file(b"b", b"0" * 10), "'b' is larger than 9 bytes"),
            (Limits(max_size=5000), file(b"a", b"0" * 2501) + file(b"b", b"0" * 2500), "'b' is beyond the 5000"),
            (Limits(max_depth=3), header(b"a/b/c/d") + header(b"a/b/c/d/e"), "'a/b/c/d/e' is more than 3 directories"),
            (Limits(path_length=300), long_name(b"a/" * 151) + header(b"x", b"5", magic=GNU), "name of more than 300"),
            (Limits(), long_name(b"a" * 256) + header(b"x", magic=GNU), "component of more than 255 bytes"),
            (Limits(metadata_size=100), extended({b"comment": b"a" * 100}) + header(b"x"), "'x' is beyond the 100"),
            (
                Limits(max_file_size=4095),
                extended(sparse()) + header(size=512) + bytes(512),
                "larger than 4095",
            ),
        ],
    )
    def test_what_is_over_a_limit_is_refused_by_name(self, limits: Limits, archive: bytes, said: str) -> None:
        assert said in refusal(archive, limits)

    @pytest.mark.parametrize("size", [33 << 30, (1 << 63) - 1])
    @pytest.mark.parametrize("written", ["header", "record"])
    def test_a_file_that_is_too_large_is_refused_before_its_content_is_read(self, size: int, written: str) -> None:
        large = header(b"big", size=base256(size, 12))
        archive = large if written == "header" else extended({b"size": b"%d" % size}) + header(b"big")
        assert "'big' is larger than" in refusal(archive)

    @pytest.mark.parametrize("kind", [b"x", b"L", b"K"])
    def test_an_extended_header_over_a_megabyte_is_refused_before_it_is_read(self, kind: bytes) -> None:
        assert "has an extended header of 2147483648 bytes" in refusal(header(b"x", kind, size=2 << 30))

    def test_all_that_is_at_a_limit_passes(self) -> None:
        archive = file(b"a/b", b"12") + file(b"c", b"3") + END
        limits = Limits(max_size=len(archive), max_entries=2, max_file_size=2, path_length=3, max_depth=1)
        assert check(archive, limits).entries == 2


class TestReport:
    def test_the_report_counts_entries_and_content(self) -> None:
        archive = b"".join(
            [
                header(b"d/", b"5"),
                file(b"d/a", b"123"),
                extended({b"mtime": b"1"}) + file(b"d/b", b"4567"),
                header(b"d/.wh.c"),
                extended(sparse()) + header(b"GNUSparseFile/holes", size=512) + b"0\n".ljust(512, b"\0"),
            ]
        )
        assert check(archive + END) == GateReport(
            diff_id=sha256_of(archive + END),
            entries=5,
            unpacked_size=3 + 4 + 4096,
            has_xattrs=False,
        )

    def test_the_report_tells_of_attributes(self) -> None:
        assert check(extended({b"SCHILY.xattr.user.a": b"1"}) + header(b"a") + END).has_xattrs

    def test_a_media_type_of_no_layer_is_not_supported(self) -> None:
        with pytest.raises(UnsupportedError) as caught:
            check_layer(io.BytesIO(), digest=SOME_DIGEST, media_type="text/html\x1b", diff_id=SOME_DIGEST)
        assert caught.value.message.isprintable()
