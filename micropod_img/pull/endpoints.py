"""Which registries are asked for an image, under which name and in which order; pure, nothing is read or asked here.

A reference is the logical name of an image, and what it is stored under. registries.conf can send the requests for it
elsewhere: to mirrors first, then to the location that stands in for its prefix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from micropod_img.errors import AuthError, InvalidReference, UnsupportedError, UsageError
from micropod_img.pull.registries_conf import Registry
from micropod_img.reference import DEFAULT_DOMAIN, Reference

if TYPE_CHECKING:
    from collections.abc import Collection

    from micropod_img.digest import Digest
    from micropod_img.pull.registries_conf import Alias, Mirror, Registries

_UNCONFIGURED: Final = Registry(prefix="", location="")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to ask for an image.

    Attributes:
        host: The registry, ``host[:port]``; credentials and certificates are looked up for it, and for no other.
        repository: The repository there.
        insecure: Whether plain HTTP and any certificate will do.
        is_mirror: Whether this is a mirror, and not the registry or what stands in for it.
        reference_text: The image as crane takes it; by its digest alone where it has one.
    """

    host: str
    repository: str
    insecure: bool
    is_mirror: bool
    reference_text: str

    def text_for(self, digest: Digest) -> str:
        """Return how crane takes another document of this repository."""
        return f"{self.host}/{self.repository}@{digest}"


def endpoints(
    reference: Reference,
    registries: Registries,
    *,
    insecure: bool = False,
    insecure_registries: Collection[str] = (),
) -> tuple[Endpoint, ...]:
    """List where to pull an image from, in order: the mirrors that serve such references, then the registry.

    A blocked registry is left out, be it the image's own or one that a mirror's or rewritten name belongs to; the
    mirrors of a blocked registry remain, as with Podman (OpenShift's NeverContactSource is built on that).

    Args:
        reference: The image's logical name.
        registries: What registries.conf says.
        insecure: Whether the user said ``--insecure`` for this call.
        insecure_registries: ``host[:port]`` in lower case, the configuration's ``insecure-registries``.

    Returns:
        At least one endpoint.

    Raises:
        AuthError: There is nobody left to ask, because registries.conf blocks it.
        UsageError: A location in registries.conf makes no name of a registry and repository.
        UnsupportedError: The name has no registry.
    """
    registry = find_registry(reference, registries) or _UNCONFIGURED
    by_digest = reference.digest is not None
    mirrors = [mirror for mirror in registry.mirrors if _serves(mirror, registry, by_digest=by_digest)]
    places: list[Mirror | Registry] = [*mirrors, registry]
    found: list[Endpoint] = []
    blocking: list[Registry] = []
    for place in places:
        physical = _relocated(reference, registry, place.location)
        _refuse_without_registry(physical)
        blocker = _blocker(physical, place, registries)
        if blocker is not None:
            blocking.append(blocker)
            continue
        allowed = insecure or place.insecure or _is_listed(physical, insecure_registries)
        found.append(_endpoint(physical, insecure=allowed, is_mirror=place is not registry))
    if not found:
        raise _blocked(reference, blocking[-1], has_idle_mirrors=len(mirrors) < len(registry.mirrors))
    return tuple(found)


def direct_endpoint(
    reference: Reference,
    registries: Registries,
    *,
    insecure: bool = False,
    insecure_registries: Collection[str] = (),
) -> Endpoint:
    """Return where to push an image to, or list its tags: its own registry, for no mirror answers for that.

    Args:
        reference: The image.
        registries: What registries.conf says.
        insecure: Whether the user said ``--insecure`` for this call.
        insecure_registries: ``host[:port]`` in lower case, the configuration's ``insecure-registries``.

    Returns:
        The endpoint with the name as it is; containers-registries.conf(5) redirects reading only.

    Raises:
        AuthError: registries.conf blocks the registry.
        UnsupportedError: The name has no registry.
    """
    _refuse_without_registry(reference)
    registry = find_registry(reference, registries)
    if registry is not None and registry.blocked:
        raise _blocked(reference, registry, has_idle_mirrors=False)
    insecure = insecure or (registry is not None and registry.insecure)
    return _endpoint(reference, insecure=insecure or _is_listed(reference, insecure_registries), is_mirror=False)


def find_registry(reference: Reference, registries: Registries) -> Registry | None:
    """Find the ``[[registry]]`` table with the longest prefix that a name starts with.

    Args:
        reference: A logical or physical name.
        registries: What registries.conf says.

    Returns:
        The table; of two with prefixes of one length, the one that names the host in full. None if no prefix matches.
    """
    matching = [entry for entry in registries.registries if _match(reference, entry.prefix) is not None]
    return max(matching, key=lambda entry: (len(entry.prefix), not entry.prefix.startswith("*.")), default=None)


def candidates_for_short_name(text: str, registries: Registries) -> tuple[Reference, ...]:
    """Say which images a short name may mean where registries.conf decides (``short-names = "registries.conf"``).

    An alias wins; otherwise it is each of ``unqualified-search-registries`` in turn. Nobody is ever asked to choose:
    where ``short-name-mode`` is ``enforcing`` and there are several, the user has to write the name in full.

    Args:
        text: A reference as a user wrote it.
        registries: What registries.conf says.

    Returns:
        The references to try, in order; just the one if a registry is part of the text.

    Raises:
        InvalidReference: The text is no reference.
        UsageError: Nothing says what it means, or too much does.
    """
    reference = Reference.parse(text)
    if not _is_short(reference, text):
        return (reference,)
    name, suffix = _split_suffix(text)
    alias = registries.aliases.get(name)
    if alias is not None and alias.value:
        return (_aliased(name, suffix, alias),)
    search = registries.unqualified_search
    if not search:
        raise UsageError(
            f"the short name {name} means no image: no alias, and no unqualified-search-registries",
            code="short-name",
            hint=f"write it in full, such as {DEFAULT_DOMAIN}/{reference.path}, or add it to registries.conf",
        )
    found = tuple(Reference.parse(f"{registry}/{text}") for registry in search)
    if len(found) > 1 and registries.short_name_mode == "enforcing":
        choices = ", ".join(str(candidate) for candidate in found)
        raise UsageError(
            f"the short name {name} is ambiguous, and short-name-mode is enforcing",
            code="short-name",
            hint=f"write one of {choices} (the registries are in {registries.unqualified_search_origin})",
        )
    return found


def _match(reference: Reference, prefix: str) -> int | None:
    """Return how much of a name, written out, a prefix covers; None if the name does not start with it.

    Like containers/image, a host without a port covers the host with any port. Unlike it, case does not matter in the
    host, for DNS has none and a block must hold; and tags and digests count, as containers-registries.conf(5) says.
    """
    text = str(reference)
    host = text.partition("/")[0]
    if prefix.startswith("*."):
        host = host.partition(":")[0]
        return len(host) if host.lower().endswith(prefix[1:].lower()) else None
    prefix_host, slash, rest = prefix.partition("/")
    folded, start = host.lower() + text[len(host) :], prefix_host.lower() + slash + rest
    if folded.startswith(start) and folded[len(start) : len(start) + 1] in ("", "/", ":", "@"):
        return len(start)
    return None


def _serves(mirror: Mirror, registry: Registry, *, by_digest: bool) -> bool:
    if registry.mirror_by_digest_only or mirror.pull_from_mirror == "digest-only":
        return by_digest
    return mirror.pull_from_mirror == "all" or not by_digest


def _relocated(reference: Reference, registry: Registry, location: str) -> Reference:
    """Put a location in place of the prefix of a name."""
    covered = _match(reference, registry.prefix)
    if not location or covered is None:
        return reference
    text = location + str(reference)[covered:]
    try:
        physical = Reference.parse(text)
    except InvalidReference as error:
        raise _bad_location(reference, registry, location, error.message) from error
    # What looks like a path would quietly become Docker Hub's.
    if _is_short(physical, text):
        raise _bad_location(reference, registry, location, f"{text} names no registry")
    if ":" not in text.rpartition("/")[2]:
        # The prefix has taken tag or digest away, and the location did not bring another.
        physical = replace(physical, tag=reference.tag, digest=reference.digest)
    return physical


def _bad_location(reference: Reference, registry: Registry, location: str, why: str) -> UsageError:
    hint = "a location is host[:port][/path], where the host has a dot, a port, or is localhost"
    message = f"{registry.origin}: the location {location} does not work for {reference}: {why}"
    return UsageError(message, code="config", hint=hint)


def _blocker(physical: Reference, place: Mirror | Registry, registries: Registries) -> Registry | None:
    """Find the table that forbids to ask at a place: the one that chose it, or that of the name to ask for."""
    there = find_registry(physical, registries)
    tables = (place if isinstance(place, Registry) else None, there)
    return next((table for table in tables if table is not None and table.blocked), None)


def _endpoint(physical: Reference, *, insecure: bool, is_mirror: bool) -> Endpoint:
    suffix = f"@{physical.digest}" if physical.digest is not None else f":{physical.tag}"
    return Endpoint(physical.domain, physical.path, insecure, is_mirror, physical.name + suffix)


def _refuse_without_registry(reference: Reference) -> None:
    if not reference.domain:
        first = reference.path.partition("/")[0]
        raise UnsupportedError(f"no registry can have {reference}", hint=f"{first} is not the name of a host")


def _is_listed(reference: Reference, hosts: Collection[str]) -> bool:
    return reference.domain.lower() in hosts


def _blocked(reference: Reference, registry: Registry, *, has_idle_mirrors: bool) -> AuthError:
    hint = f"blocked = true is in {registry.origin}"
    if has_idle_mirrors:
        kind = "a digest" if reference.digest is None else "a tag alone"
        hint += f"; the mirrors are only for references with {kind}"
    message = f"{reference} is not allowed here: registries.conf blocks {registry.prefix}"
    return AuthError(message, code="blocked", hint=hint, stage="resolve", endpoint=reference.domain)


def _is_short(reference: Reference, text: str) -> bool:
    """Tell whether it was the parser that added the registry."""
    first = text.partition("/")[0]
    return reference.domain == DEFAULT_DOMAIN and first not in (DEFAULT_DOMAIN, f"index.{DEFAULT_DOMAIN}")


def _split_suffix(text: str) -> tuple[str, str]:
    """Split a short name from its tag and digest; having no registry, it has no port."""
    name = text.partition("@")[0].partition(":")[0]
    return name, text[len(name) :]


def _aliased(name: str, suffix: str, alias: Alias) -> Reference:
    problem = "it names no registry"
    try:
        reference = Reference.parse(alias.value + suffix)
        if not _is_short(reference, alias.value) and alias.value == _without_suffix(alias.value):
            return reference
        problem = "it must name a registry and a repository, and no tag or digest"
    except InvalidReference as error:
        problem = error.message
    raise UsageError(f"{alias.origin}: the alias {name} = {alias.value} does not work: {problem}", code="config")


def _without_suffix(text: str) -> str:
    """Take tag and digest from a name that may have a registry with a port."""
    head, slash, last = text.partition("@")[0].rpartition("/")
    return head + slash + last.partition(":")[0]
