"""Platforms: their notation, their many spellings, and which one of an index to take.

Follows the Go package containerd/platforms (v1.0.0-rc.5: platforms.go, database.go, compare.go, cpuinfo_linux.go) and
the ``platform`` of descriptors in the OCI image-spec (image-index.md). OS features are left out: Linux has none yet.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OS: Final = r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.-]*)\))?"
_COMPONENT: Final = r"[A-Za-z0-9_.-]+"
_MAX_COMPONENTS: Final = 3
_MAX_QUOTED: Final = 80
_BITS_64: Final = 2**32

# The names that Go knows (go/build/syslist.go): only these may stand alone, for the rest would be typing errors.
# fmt: off
_KNOWN_OS: Final = frozenset({
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd",
    "openbsd", "plan9", "solaris", "windows", "zos",
})
_KNOWN_ARCHITECTURES: Final = frozenset({
    "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "ppc64", "ppc64le", "loong64", "mips", "mipsle",
    "mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64",
    "wasm",
})
# fmt: on
_KERNEL_NAMES: Final = {"aarch64_be": "arm64be", "loongarch64": "loong64"}  # uname's, where no spelling of `normalize`
_WITHOUT_64_BITS: Final = {"amd64": "386", "arm64": "arm"}
_CPU_ARCHITECTURES: Final = {  # what Linux calls the CPU in /proc/cpuinfo
    "aarch64": "v8",
    "7m": "v7",
    **{f"?({number})": "v7" for number in range(12, 18)},
    "6tej": "v6",
    "5t": "v5",
    "5te": "v5",
    "5tej": "v5",
    "4t": "v4",
    **{number: f"v{number}" for number in "345678"},
}


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, as it was written: compare platforms with `normalize` or `select`.

    Attributes:
        os: Operating system, as Go names it: ``linux``.
        architecture: CPU architecture, as Go names it: ``amd64``.
        variant: Variant of the architecture, such as ``v7`` of ``arm``; often empty.
        os_version: Version of the operating system; matters for Windows only.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse what stands behind ``--platform``, as ``platforms.Parse`` does.

        Args:
            text: ``OS``, ``ARCH``, ``OS/ARCH`` or ``OS/ARCH/VARIANT``, where an OS may be followed by ``(VERSION)``.

        Returns:
            The platform under Go's names; this host's operating system or architecture where the text names none.

        Raises:
            UsageError: The text is no platform; its code is ``invalid-platform``.
        """
        parts = text.split("/", _MAX_COMPONENTS)
        system = re.fullmatch(_OS, parts[0])
        if system is None or len(parts) > _MAX_COMPONENTS or not all(re.fullmatch(_COMPONENT, p) for p in parts[1:]):
            raise _invalid(text, "is not a platform")
        name, version = _normalize_os(system[1]), system[2] or ""
        if len(parts) == 1:
            return cls._parse_one(text, name, version)
        architecture, variant = _normalize_architecture(parts[1], parts[2] if parts[2:] else "")
        if not parts[2:]:
            variant = _unless_arm_v7(architecture, variant)
        elif architecture == "arm64" and not variant:
            variant = "v8"
        return cls(name, architecture, variant, version)

    @classmethod
    def _parse_one(cls, text: str, name: str, version: str) -> Platform:
        host = host_platform()
        if name in _KNOWN_OS:
            return cls(name, host.architecture, _unless_arm_v7(host.architecture, host.variant), version)
        architecture, variant = _normalize_architecture(text, "")
        if architecture in _KNOWN_ARCHITECTURES:
            return cls(host.os, architecture, _unless_arm_v7(architecture, variant))
        raise _invalid(text, "is no operating system or architecture that is known here")

    def __str__(self) -> str:
        """Return ``OS[(VERSION)]/ARCH[/VARIANT]``; what `parse` returned parses back to the same.

        A platform may come from a registry: characters that a terminal would act on are escaped.
        """
        system = f"{self.os}({self.os_version})" if self.os_version else self.os
        shown = "/".join(part for part in (system, self.architecture, self.variant) if part) if self.os else "unknown"
        return shown if shown.isprintable() else repr(shown)[1:-1]


def normalize(platform: Platform) -> Platform:
    """Return the one spelling of a platform that `select` compares, as ``platforms.Normalize`` does.

    ``x86_64`` is ``amd64``, ``aarch64`` and ``arm64/v8`` are ``arm64``, ``armhf`` and ``arm`` are ``arm/v7``. An empty
    operating system is this host's.
    """
    architecture, variant = _normalize_architecture(platform.architecture, platform.variant)
    return replace(platform, os=_normalize_os(platform.os), architecture=architecture, variant=variant)


@cache
def host_platform() -> Platform:
    """Return the normalized platform of this host, as ``platforms.DefaultSpec`` does.

    It is this interpreter's: with a 32-bit Python on a 64-bit kernel it is ``linux/386`` or ``linux/arm/v8``. As there,
    x86 levels (``amd64/v3``) are not looked for: an image for a level above the first must be asked for.
    """
    uname = os.uname()
    architecture = _host_architecture(uname.machine, has_64_bits=sys.maxsize > _BITS_64, byteorder=sys.byteorder)
    variant = _arm_variant(uname.machine, _read_cpuinfo()) if architecture == "arm" else ""
    return normalize(Platform(uname.sysname, architecture, variant))


def candidates(wanted: Platform) -> tuple[Platform, ...]:
    """Return the normalized platforms whose images run on one platform, the best first, as ``platforms.Only`` does.

    ``amd64/v3`` runs ``v2``, ``amd64`` and ``386``; ``arm/v7`` runs ``v6`` and ``v5``; ``arm64/v9.1`` runs ``v9``,
    ``v8.6`` to ``v8.1``, ``arm64``, and ``arm/v8`` to ``v5``.
    """
    first = normalize(wanted)
    lesser = _lesser(first.architecture, first.variant)
    return first, *(replace(first, architecture=architecture, variant=variant) for architecture, variant in lesser)


def select(wanted: Platform, available: Sequence[Platform], *, strict: bool = False) -> int | None:
    """Choose the best of several platforms.

    Pass ``strict`` for a platform that a user asked for, and not for the host's. containerd's commands take no other
    for one that was named (``ctr`` and ``nerdctl`` match ``--platform`` with ``platforms.Ordered``, which matches as
    ``OnlyStrict`` does), and who asks for ``linux/amd64`` and gets ``linux/386`` finds out late. Other spellings of the
    same platform match in both cases.

    Args:
        wanted: What the image is to run on.
        available: What there are images for, in the order of their index.
        strict: Whether only images for just this platform will do, and none of the lesser ones that would run on it.

    Returns:
        The index of the best match, the first among equals; None if nothing matches. Never an unknown platform.
    """
    offers = [normalize(platform) for platform in available]
    for candidate in (normalize(wanted),) if strict else candidates(wanted):
        for index, offer in enumerate(offers):
            if _is_same(candidate, offer) and not is_unknown(offer):
                return index
    return None


def is_unknown(platform: Platform) -> bool:
    """Tell whether this is the ``unknown/unknown`` of index entries that are no images, such as attestations."""
    return "unknown" in (platform.os.lower(), platform.architecture.lower())


def _invalid(text: str, problem: str) -> UsageError:
    hint = "a platform is OS/ARCH[/VARIANT], such as linux/amd64, linux/arm64 or linux/arm/v7"
    return UsageError(f"{text[:_MAX_QUOTED]!r} {problem}", code="invalid-platform", hint=hint)


def _normalize_os(name: str) -> str:
    name = name.lower() or os.uname().sysname.lower()
    return "darwin" if name == "macos" else name


def _normalize_architecture(name: str, variant: str) -> tuple[str, str]:  # noqa: PLR0911 - a table with conditions
    match name.lower(), variant.lower():
        case (("i386" | "i686"), _):
            return "386", ""
        case (("x86_64" | "x86-64" | "amd64"), level):
            return "amd64", "" if level == "v1" else level
        case (("aarch64" | "arm64"), ("8" | "v8" | "v8.0")):
            return "arm64", ""
        case (("aarch64" | "arm64"), ("9" | "9.0" | "v9.0")):
            return "arm64", "v9"
        case (("aarch64" | "arm64"), version):
            return "arm64", version
        case "armhf", _:
            return "arm", "v7"
        case "armel", _:
            return "arm", "v6"
        case "arm", ("" | "5" | "6" | "7" | "8" as version):
            return "arm", f"v{version or 7}"
        case other:
            return other


def _unless_arm_v7(architecture: str, variant: str) -> str:
    """Drop the variant that ``arm`` means anyhow: short forms stay short."""
    return "" if (architecture, variant) == ("arm", "v7") else variant


def _lesser(architecture: str, variant: str) -> Iterator[tuple[str, str]]:
    """Yield the architectures and variants that a normalized one can run besides itself, the best first."""
    if architecture == "amd64":
        if level := re.fullmatch(r"v?([2-9])", variant):
            yield from (("amd64", f"v{number}") for number in range(int(level[1]) - 1, 1, -1))
            yield "amd64", ""
        yield "386", ""
    elif architecture == "arm" and (version := re.fullmatch(r"v([6-9])", variant)):
        yield from (("arm", f"v{number}") for number in range(int(version[1]) - 1, 4, -1))
    elif architecture == "arm64" and (version := re.fullmatch(r"v([89])(?:\.([0-9]))?", variant or "v8")):
        yield from (("arm64", lesser) for lesser in _lesser_arm64(int(version[1]), int(version[2] or 0)))
        yield from (("arm", f"v{number}") for number in range(8, 4, -1))


def _lesser_arm64(major: int, minor: int) -> Iterator[str]:
    """Yield the variants below one of ``arm64``; Armv9.N includes Armv8.(N+5), and Armv8 ends with 8.9."""
    if major == 9:  # noqa: PLR2004 - the name of an architecture
        yield from (f"v9.{number}" if number else "v9" for number in range(minor - 1, -1, -1))
        minor = min(minor + 5, 9) + 1
    yield from (f"v8.{number}" if number else "" for number in range(minor - 1, -1, -1))


def _is_same(candidate: Platform, offer: Platform) -> bool:
    """Compare two normalized platforms; a version of Windows counts up to its build, and only where both name one."""
    if replace(candidate, os_version="") != replace(offer, os_version=""):
        return False
    if candidate.os != "windows" or not candidate.os_version or not offer.os_version:
        return True
    return candidate.os_version.split(".")[:3] == offer.os_version.split(".")[:3]


def _host_architecture(machine: str, *, has_64_bits: bool, byteorder: str) -> str:
    """Return Go's name for the machine that ``uname -m`` names, as a program of that many bits sees it."""
    name = _KERNEL_NAMES.get(machine, machine)
    if name.startswith("armv"):
        return "arm"
    if name in {"mips", "mips64"} and byteorder == "little":
        return f"{name}le"
    architecture, _ = _normalize_architecture(name, "")
    return architecture if has_64_bits else _WITHOUT_64_BITS.get(architecture, architecture)


def _arm_variant(machine: str, cpuinfo: str) -> str:
    """Return the version of a 32-bit ARM CPU; ``unknown`` when neither /proc/cpuinfo nor ``uname -m`` tells."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip().lower())
    # Under emulation /proc/cpuinfo is the emulating host's and has no such field.
    version = fields.get("cpu architecture") or ("8" if machine == "aarch64" else machine.removeprefix("armv")[:1])
    if version == "7" and fields.get("model name", "").startswith("armv6-compatible"):
        version = "6"  # kernels say 7 on the first Raspberry Pis
    return _CPU_ARCHITECTURES.get(version, "unknown")


def _read_cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
