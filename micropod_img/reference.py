"""Image references: the grammar and normalisation of distribution/reference (regexp.go, normalize.go, v0.6.0).

Text is taken apart at its first ``/``, then at ``@`` and ``:``, which no other part may hold, and each part is matched
whole. That accepts what the one regular expression of the Go package accepts, and can say which part is wrong.
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from micropod_img.errors import InvalidReference

if TYPE_CHECKING:
    from micropod_img.digest import Digest  # at run time it would load hashlib, which costs more than all of this

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_LEGACY_DEFAULT_DOMAIN: Final = "index.docker.io"
_OFFICIAL_NAMESPACE: Final = "library/"

_MAX_PATH: Final = 255
_MAX_TAG: Final = 128
_HEX_DIGITS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}

# Explicit ASCII classes, for \w and \d match Unicode; possessive quantifiers, so that hostile text takes linear time.
# re compiles and caches each at its first use: a command that parses no reference pays nothing.
_LABEL: Final = r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
_HOST: Final = rf"(?:{_LABEL}(?:\.{_LABEL})*+|\[[A-Fa-f0-9:]++\])"
_DOMAIN: Final = rf"{_HOST}(?::[0-9]++)?"
_COMPONENT: Final = r"[a-z0-9]++(?:(?:__|[._]|-++)[a-z0-9]++)*+"
_PATH: Final = rf"{_COMPONENT}(?:/{_COMPONENT})*+"
_TAG: Final = rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{_MAX_TAG - 1}}}"
_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.-]*+://"

_EXAMPLE: Final = "a reference is [REGISTRY/]NAME[:TAG][@DIGEST], such as alpine:3.20 or registry.example.com/team/app"
_DIGEST_FORM: Final = "a digest is sha256:<64 hex digits>"
_MAX_QUOTED: Final = 160


@dataclass(frozen=True, slots=True)
class Reference:
    """One image, named in full; made by `parse`, which adds what short forms leave out.

    Attributes:
        domain: The registry, ``host[:port]``; ``docker.io`` for Docker Hub. Empty for the odd name that the grammar
            takes for a path alone, as its first component has a dot and an underscore (``a_b.com/app``): it can be
            named, but no registry has it.
        path: The repository in that registry, such as ``library/alpine``.
        tag: The tag; None only when a digest stands alone.
        digest: The digest, which decides when there is a tag as well.
    """

    domain: str
    path: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference as users write it, as ``reference.ParseNormalizedNamed`` and ``TagNameOnly`` do.

        Args:
            text: ``[REGISTRY/]NAME[:TAG][@DIGEST]``. A digest alone is none: ``sha256:<hex>`` reads as name and tag.

        Returns:
            The reference with its defaults: ``docker.io``, ``library/`` and, without a digest, ``latest``.

        Raises:
            InvalidReference: The grammar rejects the text; the message says why.
        """
        _refuse_at_sight(text)
        domain, remainder = _split_domain(text)
        named, at, digest = remainder.partition("@")
        path, colon, tag = named.partition(":")
        if re.fullmatch(_DOMAIN, domain) is None:
            # distribution/reference drops here what it has split off: either this is all path, or it is nothing.
            if re.fullmatch(_COMPONENT, domain) is None:
                raise _invalid(text, *_domain_problem(domain))
            domain, path = "", f"{domain}/{path}"
        if len(path) > _MAX_PATH or re.fullmatch(_PATH, path) is None:
            raise _invalid(text, *_path_problem(path))
        if colon and re.fullmatch(_TAG, tag) is None:
            raise _invalid(text, *_tag_problem(tag))
        if at and not _is_digest(digest):
            raise _invalid(text, *_digest_problem(digest))
        return cls(domain, path, tag or (None if at else DEFAULT_TAG), cast("Digest", digest) if at else None)

    def __str__(self) -> str:
        """Return the canonical form, which parses back to this reference."""
        return self.name + self._suffix

    @property
    def name(self) -> str:
        """The repository with its registry: ``domain/path``."""
        return f"{self.domain}/{self.path}" if self.domain else self.path

    @property
    def familiar(self) -> str:
        """The form that users know, as ``reference.FamiliarString``: without ``docker.io`` and ``library/``.

        Unlike that function's, it always parses back to this reference: ``docker.io/localhost/app`` stays as it is.
        """
        if self.domain != DEFAULT_DOMAIN:
            return str(self)
        short = self.path.removeprefix(_OFFICIAL_NAMESPACE)
        for name in (short, self.path):
            if _split_domain(name) == (DEFAULT_DOMAIN, self.path):
                return name + self._suffix
        return str(self)

    def with_tag(self, tag: str) -> Reference:
        """Return this reference with another tag; a digest stays.

        Raises:
            InvalidReference: The grammar rejects the tag.
        """
        if re.fullmatch(_TAG, tag) is None:
            problem, hint = _tag_problem(tag)
            raise InvalidReference(f"invalid tag {_quoted(tag)}: {problem}", hint=hint)
        return replace(self, tag=tag)

    def with_digest(self, digest: Digest) -> Reference:
        """Return this reference pinned to a digest; a tag stays."""
        return replace(self, digest=digest)

    def without_digest(self) -> Reference:
        """Return this reference by its tag alone, which is ``latest`` if it had none."""
        return replace(self, tag=self.tag or DEFAULT_TAG, digest=None)

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def _split_domain(text: str) -> tuple[str, str]:
    """Tell the registry from the rest, as ``splitDockerDomain`` of distribution/reference does."""
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, _OFFICIAL_NAMESPACE + text
    if first == _LEGACY_DEFAULT_DOMAIN:
        first = DEFAULT_DOMAIN
    elif first != "localhost" and "." not in first and ":" not in first and first.lower() == first:
        return DEFAULT_DOMAIN, text
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL_NAMESPACE + rest
    return first, rest


def _is_digest(text: str) -> bool:
    algorithm, _, encoded = text.partition(":")
    return len(encoded) == _HEX_DIGITS.get(algorithm) and re.fullmatch(r"[a-f0-9]++", encoded) is not None


def _invalid(text: str, problem: str, hint: str | None) -> InvalidReference:
    # A password that was pasted along with a URL stays out of messages, which end up in logs.
    head, slash, tail = text.rpartition("/")
    user_info, at, host = head.rpartition("@")
    shown = f"***@{host}/{tail}" if slash and at and ":" in user_info else text
    return InvalidReference(f"invalid reference {_quoted(shown)}: {problem}", hint=hint)


def _quoted(text: str) -> str:
    """Quote text for a message: on one line, with nothing a terminal would act on, and not too long."""
    quoting = reprlib.Repr()
    quoting.maxstring = _MAX_QUOTED
    return quoting.repr(text)


def _refuse_at_sight(text: str) -> None:
    """Raise for what is no reference wherever its parts end; the grammar would reject it too, but could not say why.

    Raises:
        InvalidReference: The text is empty, a URL, a path, an image ID, or has a character that no part may hold.
    """
    if not text:
        raise _invalid(text, "it is empty", _EXAMPLE)
    if text.strip() != text:
        raise _invalid(text, "there is white space around it", "leave it out")
    if foreign := re.search(r"[^!-~]", text):
        kind = "a space" if foreign[0] == " " else f"the character {foreign[0]!r}"
        raise _invalid(text, f"it contains {kind}", _EXAMPLE)
    if scheme := re.match(_SCHEME, text):
        raise _invalid(text, f"it starts with {_quoted(scheme[0])}", f"leave out {_quoted(scheme[0])}")
    if "/" in text.partition("@")[2]:
        hint = "a digest stands at the very end; user name and password are for `micropod-img login REGISTRY`"
        raise _invalid(text, "a slash follows the @", hint)
    if text.startswith(("/", "./", "../")):
        raise _invalid(text, "it looks like the path of a file, not the name of an image", _EXAMPLE)
    if text.endswith("/"):
        raise _invalid(text, "it ends with a slash", "leave out the slash, or add the name of a repository")
    if re.fullmatch(r"[a-f0-9]{64}", text):
        problem = "64 hexadecimal digits are an image ID, not a name"
        raise _invalid(text, problem, f"for a digest write NAME@sha256:{text}")


def _domain_problem(domain: str) -> tuple[str, str | None]:
    """Say what is wrong with a registry, and what to do."""
    subject = f"{_quoted(domain)} is not a registry"
    host, _, port = domain.rpartition(":")
    if "%" in domain:
        return f"{subject}: an IPv6 zone is not allowed", None
    if domain.count(":") > 1 and not domain.startswith("["):
        return f"{subject}: an IPv6 address stands in square brackets", "write [::1]:5000/NAME"
    if host and "]" not in port and re.fullmatch(r"[0-9]++", port) is None:
        return f"{subject}: {_quoted(port)} is not a port number", "a tag goes to the very end: REGISTRY/NAME:TAG"
    if "_" in domain:
        return f"{subject}: a host name has no underscore", None
    return f"{subject}: it is neither a host name nor an IP address", _EXAMPLE


def _path_problem(path: str) -> tuple[str, str | None]:
    """Say what is wrong with a repository name, and what to do."""
    if len(path) > _MAX_PATH:
        return f"repository name must not be more than {_MAX_PATH} characters, this one has {len(path)}", None
    if path.startswith(f"{_OFFICIAL_NAMESPACE}["):
        return "it names a registry, but no repository in it", "write REGISTRY/NAME"
    if path.lower() != path:
        lowercase = path.removeprefix(_OFFICIAL_NAMESPACE).lower()
        return "repository name must be lowercase", f"write {_quoted(lowercase)}"
    component = next(part for part in path.split("/") if re.fullmatch(_COMPONENT, part) is None)
    return _component_problem(component)


def _component_problem(component: str) -> tuple[str, str | None]:
    """Say what is wrong with one of the slash-separated parts of a repository name, and what to do."""
    if not component:
        return "a part of its name is empty", _EXAMPLE
    subject = f"{_quoted(component)} cannot be part of a repository name"
    if foreign := re.search(r"[^a-z0-9._-]", component):
        return f"{subject}: {foreign[0]!r} is not allowed", "letters a-z, digits, and . _ - between them are"
    if component[0] in "._-" or component[-1] in "._-":
        return f"{subject}: it must start and end with a letter or digit", None
    return f"{subject}: between letters or digits stands one dot, one or two underscores, or dashes", None


def _tag_problem(tag: str) -> tuple[str, str | None]:
    """Say what is wrong with a tag, and what to do."""
    if not tag:
        return "no tag follows the colon", "leave out the colon for the tag latest"
    if len(tag) > _MAX_TAG:
        return f"a tag must not be more than {_MAX_TAG} characters, this one has {len(tag)}", None
    if foreign := re.search(r"[^A-Za-z0-9_.-]", tag):
        return f"{foreign[0]!r} is not allowed in a tag", "letters, digits, and _ . - are"
    return f"a tag does not start with {tag[0]!r}", "it starts with a letter, a digit or an underscore"


def _digest_problem(digest: str) -> tuple[str, str | None]:
    """Say what is wrong with a digest, and what to do."""
    algorithm, colon, encoded = digest.partition(":")
    if not digest:
        return "no digest follows the @", _DIGEST_FORM
    if not colon:
        return f"{_quoted(digest)} is not a digest", _DIGEST_FORM
    if algorithm not in _HEX_DIGITS:
        return f"digest algorithm {_quoted(algorithm)} is not supported", f"{', '.join(_HEX_DIGITS)} are"
    if len(encoded) != _HEX_DIGITS[algorithm]:
        return f"a {algorithm} digest has {_HEX_DIGITS[algorithm]} hex digits, this one has {len(encoded)}", None
    return f"a {algorithm} digest is written in 0-9 and a-f", "lowercase" if encoded.isupper() else None
