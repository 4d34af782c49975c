"""Platforms as containerd/platforms reads, spells and orders them: what its own tests state, and what hosts tell."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micropod_img import platforms
from micropod_img.errors import UsageError
from micropod_img.platforms import Platform, candidates, host_platform, is_unknown, normalize, select

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A host that tests may make up; what was found out about the real one is forgotten before and after."""
    host_platform.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    host_platform.cache_clear()


def pretend(host: pytest.MonkeyPatch, machine: str, cpuinfo: str = "", system: str = "Linux") -> None:
    host.setattr(os, "uname", lambda: os.uname_result((system, "host", "6.1.0", "#1", machine)))
    host.setattr(platforms, "_read_cpuinfo", lambda: cpuinfo)


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("Linux/x86_64", Platform("linux", "amd64")),
        ("linux/x86-64", Platform("linux", "amd64")),
        ("linux/amd64/v1", Platform("linux", "amd64")),
        ("linux/amd64/v3", Platform("linux", "amd64", "v3")),
        ("linux/i386", Platform("linux", "386")),
        ("linux/arm64", Platform("linux", "arm64")),
        ("linux/aarch64", Platform("linux", "arm64")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("linux/arm64/8", Platform("linux", "arm64", "v8")),
        ("linux/arm64/v9.2", Platform("linux", "arm64", "v9.2")),
        ("linux/arm", Platform("linux", "arm")),
        ("linux/armhf", Platform("linux", "arm")),
        ("linux/armel", Platform("linux", "arm", "v6")),
        ("linux/arm/v7", Platform("linux", "arm", "v7")),
        ("linux/arm/6", Platform("linux", "arm", "v6")),
        ("linux/s390x", Platform("linux", "s390x")),
        ("macOS/arm64", Platform("darwin", "arm64")),
        ("windows/amd64", Platform("windows", "amd64")),
        ("windows(10.0.17763)/amd64", Platform("windows", "amd64", os_version="10.0.17763")),
        ("windows()/amd64", Platform("windows", "amd64")),
        ("plan10/vax/v780", Platform("plan10", "vax", "v780")),  # with two parts, nothing has to be known
        ("unknown/unknown", Platform("unknown", "unknown")),
    ],
)
def test_a_platform_is_parsed(text: str, platform: Platform) -> None:
    assert Platform.parse(text) == platform


@pytest.mark.parametrize(
    ("text", "machine", "platform"),
    [
        ("linux", "x86_64", Platform("linux", "amd64")),
        ("linux", "aarch64", Platform("linux", "arm64")),
        ("linux", "armv7l", Platform("linux", "arm")),
        ("linux", "armv6l", Platform("linux", "arm", "v6")),
        ("windows(10.0.17763)", "x86_64", Platform("windows", "amd64", os_version="10.0.17763")),
        ("macOS", "x86_64", Platform("darwin", "amd64")),
        ("arm64", "x86_64", Platform("linux", "arm64")),
        ("Aarch64", "x86_64", Platform("linux", "arm64")),
        ("x86_64", "aarch64", Platform("linux", "amd64")),
        ("i386", "x86_64", Platform("linux", "386")),
        ("arm", "x86_64", Platform("linux", "arm")),
        ("armhf", "x86_64", Platform("linux", "arm")),
        ("armel", "x86_64", Platform("linux", "arm", "v6")),
        ("s390x", "x86_64", Platform("linux", "s390x")),
    ],
)
def test_the_host_supplies_the_part_that_is_left_out(
    on_host: pytest.MonkeyPatch, text: str, machine: str, platform: Platform
) -> None:
    pretend(on_host, machine)
    assert Platform.parse(text) == platform


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/linux/arm",
        "linux/",
        "linux/arm/",
        "linux//v7",
        "linux/arm/v7/x",
        "linux /arm",
        "linux/&arm",
        "linux/arm64,linux/amd64",
        "linux,amd64",
        "*",
        "linux/*",
        "linux\n",
        "linux/amd64\n",
        "linux/amd64/v2\n",
        "linux/\u0663\u0668\u0666",
        "l\u0130nux/amd64",
        "amd46",
        "amd64(1)",
        "windows(10.0/amd64",
        "windows(10 0)/amd64",
        "linux/amd64\x1b[31m",
        "\ud800",
    ],
)
def test_what_is_no_platform_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        Platform.parse(text)
    assert (raised.value.code, raised.value.exit_status) == ("invalid-platform", 2)
    assert str(raised.value).startswith(f"{text!r} is n")
    assert str(raised.value).isprintable()
    assert "linux/arm/v7" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("platform", "shown"),
    [
        (Platform("linux", "amd64"), "linux/amd64"),
        (Platform("linux", "arm64", "v8"), "linux/arm64/v8"),
        (Platform("windows", "amd64", os_version="10.0.17763.1"), "windows(10.0.17763.1)/amd64"),
        (Platform("linux", ""), "linux"),
        (Platform("", ""), "unknown"),
        (Platform("linux", "amd\x1b[2J\n64", "\ud800"), r"linux/amd\x1b[2J\n64/\ud800"),
    ],
)
def test_a_platform_is_shown_on_one_line_with_nothing_a_terminal_acts_on(platform: Platform, shown: str) -> None:
    assert str(platform) == shown


@pytest.mark.parametrize(
    ("given_as", "normalized"),
    [
        (Platform("Linux", "X86_64"), Platform("linux", "amd64")),
        (Platform("linux", "x86-64"), Platform("linux", "amd64")),
        (Platform("linux", "amd64", "v1"), Platform("linux", "amd64")),
        (Platform("linux", "amd64", "V2"), Platform("linux", "amd64", "v2")),
        (Platform("linux", "i386", "x"), Platform("linux", "386")),
        (Platform("linux", "i686"), Platform("linux", "386")),
        (Platform("linux", "AArch64"), Platform("linux", "arm64")),
        (Platform("linux", "arm64", "8"), Platform("linux", "arm64")),
        (Platform("linux", "arm64", "v8"), Platform("linux", "arm64")),
        (Platform("linux", "arm64", "v8.0"), Platform("linux", "arm64")),
        (Platform("linux", "arm64", "v8.1"), Platform("linux", "arm64", "v8.1")),
        (Platform("linux", "aarch64", "9"), Platform("linux", "arm64", "v9")),
        (Platform("linux", "arm64", "v9.0"), Platform("linux", "arm64", "v9")),
        (Platform("linux", "armhf", "v6"), Platform("linux", "arm", "v7")),
        (Platform("linux", "armel"), Platform("linux", "arm", "v6")),
        (Platform("linux", "arm"), Platform("linux", "arm", "v7")),
        (Platform("linux", "arm", "5"), Platform("linux", "arm", "v5")),
        (Platform("linux", "arm", "8"), Platform("linux", "arm", "v8")),
        (Platform("linux", "arm", "v4"), Platform("linux", "arm", "v4")),
        (Platform("macOS", "arm64"), Platform("darwin", "arm64")),
        (Platform("windows", "amd64", "", "10.0.1"), Platform("windows", "amd64", "", "10.0.1")),
        (Platform("linux", "riscv64", "RVA23U64"), Platform("linux", "riscv64", "rva23u64")),
    ],
)
def test_every_spelling_of_a_platform_is_normalized_to_one(given_as: Platform, normalized: Platform) -> None:
    assert normalize(given_as) == normalized


def test_an_empty_operating_system_is_the_hosts(on_host: pytest.MonkeyPatch) -> None:
    pretend(on_host, "x86_64", system="FreeBSD")
    assert normalize(Platform("", "amd64")) == Platform("freebsd", "amd64")


@pytest.mark.parametrize(
    ("wanted", "in_order"),
    [
        ("linux/amd64", "linux/amd64 linux/386"),
        ("linux/amd64/v2", "linux/amd64/v2 linux/amd64 linux/386"),
        ("linux/amd64/v4", "linux/amd64/v4 linux/amd64/v3 linux/amd64/v2 linux/amd64 linux/386"),
        ("linux/386", "linux/386"),
        ("windows/amd64", "windows/amd64 windows/386"),
        ("linux/arm", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("linux/arm/v8", "linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("linux/arm/v6", "linux/arm/v6 linux/arm/v5"),
        ("linux/arm/v5", "linux/arm/v5"),
        ("linux/arm/v4", "linux/arm/v4"),
        ("linux/arm64", "linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        (
            "linux/arm64/v8.2",
            "linux/arm64/v8.2 linux/arm64/v8.1 linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5",
        ),
        (
            "linux/arm64/v9.1",
            (
                "linux/arm64/v9.1 linux/arm64/v9 linux/arm64/v8.6 linux/arm64/v8.5 linux/arm64/v8.4 linux/arm64/v8.3"
                " linux/arm64/v8.2 linux/arm64/v8.1 linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"
            ),
        ),
        ("linux/arm64/v10", "linux/arm64/v10"),
        ("linux/amd64/v1000000000", "linux/amd64/v1000000000 linux/386"),
        ("linux/riscv64", "linux/riscv64"),
        ("linux/s390x", "linux/s390x"),
    ],
)
def test_a_host_runs_lesser_platforms_the_best_first(wanted: str, in_order: str) -> None:
    assert " ".join(str(platform) for platform in candidates(Platform.parse(wanted))) == in_order


ARM_32 = ["linux/arm", "linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm/v8"]
ARM_64_TO_8_5 = ["linux/arm64", "linux/arm64/v8", *(f"linux/arm64/v8.{minor}" for minor in range(1, 6))]
FOREIGN = ["linux/arm/v4", "windows/amd64", "windows/arm", "darwin/arm64", "linux/s390x", "unknown/unknown"]


@pytest.mark.parametrize(
    ("wanted", "runs", "runs_not"),
    [
        ("linux/amd64", ["linux/amd64", "linux/amd64/v1", "linux/386"], ["linux/amd64/v2", *ARM_32, "linux/arm64"]),
        ("linux/amd64/v2", ["linux/amd64", "linux/amd64/v1", "linux/amd64/v2"], ["linux/amd64/v3", *ARM_32]),
        ("linux/386", ["linux/386", "linux/i386"], ["linux/amd64", *ARM_32, "linux/arm64"]),
        ("linux/arm/v8", ARM_32, ["linux/amd64", "linux/arm64"]),
        ("linux/arm/v7", ["linux/arm", "linux/armhf", "linux/arm/v6", "linux/armel"], ["linux/arm/v8", "linux/arm64"]),
        ("linux/arm/v6", ["linux/arm/v5", "linux/arm/v6"], ["linux/arm", "linux/arm/v7", "linux/arm64"]),
        ("linux/arm/v5", ["linux/arm/v5"], ["linux/arm", "linux/arm/v6"]),
        (
            "linux/arm64",
            [*ARM_32, "linux/arm64", "linux/arm64/v8"],
            ["linux/amd64", "linux/arm64/v8.1", "linux/arm64/v9"],
        ),
        ("linux/arm64/v8.1", [*ARM_32, *ARM_64_TO_8_5[:3]], ["linux/arm64/v8.2", "linux/arm64/v9", "linux/arm/v9"]),
        ("linux/arm64/v9", [*ARM_32, *ARM_64_TO_8_5, "linux/arm64/v9.0"], ["linux/arm64/v8.6", "linux/arm64/v9.1"]),
        (
            "linux/arm64/v9.6",
            [*ARM_32, *ARM_64_TO_8_5, "linux/arm64/v8.9", "linux/arm64/v9", "linux/arm64/v9.5"],
            ["linux/arm64/v8.10", "linux/arm64/v9.7"],
        ),
    ],
)
def test_a_platform_runs_images_of_its_own_and_lesser_ones(wanted: str, runs: list[str], runs_not: list[str]) -> None:
    chosen = {text: select(Platform.parse(wanted), [Platform.parse(text)]) for text in [*runs, *runs_not, *FOREIGN]}
    assert [text for text, index in chosen.items() if index == 0] == runs


@pytest.mark.parametrize(
    ("wanted", "same", "others"),
    [
        ("linux/amd64", ["linux/amd64", "linux/x86_64", "linux/amd64/v1"], ["linux/386", "linux/amd64/v2"]),
        ("linux/amd64/v3", ["linux/amd64/v3"], ["linux/amd64", "linux/amd64/v2", "linux/386"]),
        (
            "linux/arm/v7",
            ["linux/arm", "linux/arm/v7", "linux/armhf"],
            ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"],
        ),
        ("linux/arm", ["linux/arm", "linux/arm/v7"], ["linux/arm/v6", "linux/arm64"]),
        ("linux/arm64", ["linux/arm64", "linux/arm64/v8"], [*ARM_32, "linux/arm64/v8.1", "linux/arm64/v9"]),
        ("linux/arm64/v9", ["linux/arm64/v9", "linux/arm64/v9.0"], [*ARM_32, *ARM_64_TO_8_5]),
        ("windows/amd64", ["windows/amd64", "windows(10.0.17763)/amd64"], ["windows/386", "linux/amd64"]),
    ],
)
def test_a_platform_that_was_asked_for_takes_no_other(wanted: str, same: list[str], others: list[str]) -> None:
    asked = Platform.parse(wanted)
    chosen = {text: select(asked, [Platform.parse(text)], strict=True) for text in [*same, *others, *FOREIGN]}
    assert [text for text, index in chosen.items() if index == 0] == same


@pytest.mark.parametrize(
    ("wanted", "available", "index"),
    [
        ("linux/amd64", [], None),
        ("linux/amd64", ["linux/386", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/x86_64"], 0),
        ("linux/amd64/v3", ["linux/386", "linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 2),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], 1),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8", "linux/arm64"], 1),
        ("linux/amd64", ["unknown/unknown", "linux/amd64", "unknown/unknown"], 1),
        ("linux/riscv64", ["linux/amd64", "linux/arm64"], None),
        ("unknown/unknown", ["unknown/unknown"], None),
        ("windows(10.0.20348)/amd64", ["windows(10.0.17763.5)/amd64", "windows(10.0.20348.9)/amd64"], 1),
        ("windows(10.0.20348)/amd64", ["windows(10.0.17763.5)/amd64", "windows/amd64"], 1),
        ("windows/amd64", ["windows(10.0.17763.5)/amd64", "windows(10.0.20348.9)/amd64"], 0),
        ("linux(5.4)/amd64", ["linux(6.1)/amd64"], 0),
    ],
)
def test_the_best_platform_is_chosen_and_the_first_of_equals(
    wanted: str, available: list[str], index: int | None
) -> None:
    assert select(Platform.parse(wanted), [Platform.parse(text) for text in available]) == index


@pytest.mark.parametrize(
    ("platform", "unknown"),
    [
        (Platform("unknown", "unknown"), True),
        (Platform("Unknown", "UNKNOWN"), True),
        (Platform("unknown", ""), True),
        (Platform("linux", "amd64"), False),
        (Platform("", ""), False),
    ],
)
def test_attestations_have_an_unknown_platform(platform: Platform, unknown: bool) -> None:  # noqa: FBT001 - a table
    assert is_unknown(platform) is unknown


PI_ZERO = "processor\t: 0\nmodel name\t: ARMv6-compatible processor rev 7 (v6l)\nCPU architecture: 7\n"
PI_3 = "model name\t: ARMv7 Processor rev 4 (v7l)\nCPU architecture: 7\n\nprocessor\t: 1\nCPU architecture: 8\n"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "platform"),
    [
        ("x86_64", "flags\t: fpu avx2\n", "linux/amd64"),
        ("aarch64", "CPU architecture: 8\n", "linux/arm64"),
        ("armv7l", PI_3, "linux/arm/v7"),
        ("armv6l", PI_ZERO, "linux/arm/v6"),
        ("armv7l", "CPU architecture: 7M\n", "linux/arm/v7"),
        ("armv8l", "CPU architecture: 8\n", "linux/arm/v8"),
        ("armv8l", "CPU architecture: AArch64\n", "linux/arm/v8"),
        ("armv5tel", "CPU architecture: 5TEJ\n", "linux/arm/v5"),
        ("armv7l", "CPU architecture: ?(13)\n", "linux/arm/v7"),
        ("armv7l", "CPU architecture: 42\n", "linux/arm/unknown"),
        # emulated: the field is not there, uname knows
        ("armv7l", "flags\t: fpu avx2\n", "linux/arm/v7"),
        ("armv6l", "", "linux/arm/v6"),
        ("armvx", "", "linux/arm/unknown"),
        ("i686", "", "linux/386"),
        ("s390x", "", "linux/s390x"),
        ("ppc64le", "", "linux/ppc64le"),
        ("riscv64", "", "linux/riscv64"),
        ("loongarch64", "", "linux/loong64"),
        ("aarch64_be", "", "linux/arm64be"),
    ],
)
def test_the_host_is_what_its_kernel_and_cpu_say(
    on_host: pytest.MonkeyPatch, machine: str, cpuinfo: str, platform: str
) -> None:
    pretend(on_host, machine, cpuinfo)
    assert str(host_platform()) == platform


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "platform"),
    [
        ("x86_64", "", "linux/386"),
        ("aarch64", "CPU architecture: 8\n", "linux/arm/v8"),
        ("aarch64", "", "linux/arm/v8"),
    ],
)
def test_a_32_bit_python_on_a_64_bit_kernel_is_a_32_bit_host(
    on_host: pytest.MonkeyPatch, machine: str, cpuinfo: str, platform: str
) -> None:
    pretend(on_host, machine, cpuinfo)
    on_host.setattr(sys, "maxsize", 2**31 - 1)
    assert str(host_platform()) == platform


@pytest.mark.parametrize(
    ("byteorder", "machine", "platform"),
    [("little", "mips64", "linux/mips64le"), ("little", "mips", "linux/mipsle"), ("big", "mips64", "linux/mips64")],
)
def test_the_byte_order_tells_which_mips_it_is(
    on_host: pytest.MonkeyPatch, byteorder: Literal["little", "big"], machine: str, platform: str
) -> None:
    pretend(on_host, machine)
    on_host.setattr(sys, "byteorder", byteorder)
    assert str(host_platform()) == platform


def test_the_host_is_asked_once(on_host: pytest.MonkeyPatch) -> None:
    pretend(on_host, "x86_64")
    first = host_platform()
    pretend(on_host, "aarch64")
    assert host_platform() is first


def test_this_host_runs_images_for_itself() -> None:
    assert select(host_platform(), [Platform("linux", "vax"), host_platform()]) == 1


NAMES = st.sampled_from(
    [
        "",
        "linux",
        "Linux",
        "macOS",
        "windows",
        "unknown",
        "amd64",
        "X86_64",
        "x86-64",
        "i386",
        "i686",
        "arm",
        "armhf",
        "armel",
    ]
) | st.sampled_from(
    ["arm64", "AArch64", "s390x", "v1", "v5", "V7", "v8", "8", "v8.0", "v8.5", "9.0", "v9", "v9.9", "7"]
)
PLATFORMS = st.builds(
    Platform, NAMES | st.text(), NAMES | st.text(), NAMES | st.text(), st.text() | st.just("10.0.17763.1")
)


@given(PLATFORMS)
def test_normalizing_twice_changes_nothing(platform: Platform) -> None:
    assert normalize(normalize(platform)) == normalize(platform)


@given(PLATFORMS, st.lists(PLATFORMS, max_size=6), st.booleans())
def test_whatever_an_index_says_the_choice_is_in_it_and_runs(
    wanted: Platform,
    available: list[Platform],
    strict: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    index = select(wanted, available, strict=strict)
    if index is not None:
        assert (normalize(available[index]).architecture, normalize(available[index]).os) in {
            (candidate.architecture, candidate.os) for candidate in candidates(wanted)
        }
        assert not is_unknown(available[index])


@given(PLATFORMS)
def test_candidates_are_few_normalized_and_never_twice_the_same(platform: Platform) -> None:
    ordered = candidates(platform)
    assert ordered[0] == normalize(platform)
    assert len(ordered) == len(set(ordered)) < 30
    assert all(normalize(candidate) == candidate for candidate in ordered)


@given(st.lists(NAMES | st.text("aZ09._-()*\n\u0661", max_size=6), min_size=1, max_size=4).map("/".join) | st.text())
def test_a_platform_is_parsed_or_refused_and_its_notation_parses_back(text: str) -> None:
    try:
        platform = Platform.parse(text)
    except UsageError as error:
        told = str(error)
        assert told.isprintable()
    else:
        assert Platform.parse(str(platform)) == platform
        assert str(platform).isascii()
