"""Which registries one call may ask and how: configuration, options and environment, each read once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from micropod_img import progress
from micropod_img.errors import UsageError
from micropod_img.pull.access import AccessSettings
from micropod_img.pull.crane import TimeLimits
from micropod_img.pull.endpoints import Endpoint, candidates_for_short_name, direct_endpoint, endpoints
from micropod_img.pull.registries_conf import Registries, load_registries
from micropod_img.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from micropod_img.config import Config
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.secret import Credential


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How registries are reached for one call; the configuration's where it is None.

    Attributes:
        insecure: Whether plain HTTP, and HTTPS without verification, are allowed.
        timeout: Seconds for each reference.
        stall_timeout: Seconds without an answer or a new byte.
        auth: A credential, instead of those that files have.
        ca_file: Certificates of authorities to trust besides the system's.
        registries_conf: Read instead of the registries.conf of user and system.
    """

    insecure: bool = False
    timeout: float | None = None
    stall_timeout: float | None = None
    auth: Credential | None = None
    ca_file: Path | None = None
    registries_conf: Path | None = None


class Hosts:
    """The registries of one call.

    Args:
        config: The configuration.
        options: What was said for this call.
        environment: The user's environment.
        sink: Is told what registries.conf says that is not understood.
    """

    def __init__(
        self, config: Config, options: HostOptions, environment: Mapping[str, str], sink: ProgressSink
    ) -> None:
        self._config = config
        self._options = options
        self._environment = environment
        self._sink = sink
        self._loaded: Registries | None = None
        self._loading = threading.Lock()

    @property
    def settings(self) -> AccessSettings:
        """What decides how each of them is reached."""
        return AccessSettings(
            environment=self._environment,
            given=self._options.auth,
            auth_file=self._config.auth_file,
            ca_file=self._options.ca_file or self._config.ca_file,
        )

    def limits(self, started: float | None = None) -> TimeLimits:
        """Return the time limits of a piece of work.

        Args:
            started: When it began (`time.monotonic`); now if None.
        """
        timeout, stall_timeout = self._options.timeout, self._options.stall_timeout
        return TimeLimits(
            timeout=self._config.timeout if timeout is None else timeout,
            stall_timeout=self._config.stall_timeout if stall_timeout is None else stall_timeout,
            started=time.monotonic() if started is None else started,
        )

    def endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """List where to pull an image from, as `micropod_img.pull.endpoints.endpoints`."""
        return endpoints(
            reference,
            self._registries(),
            insecure=self._options.insecure,
            insecure_registries=self._config.insecure_registries,
        )

    def direct_endpoint(self, reference: Reference) -> Endpoint:
        """Return where to push an image to, as `micropod_img.pull.endpoints.direct_endpoint`."""
        return direct_endpoint(
            reference,
            self._registries(),
            insecure=self._options.insecure,
            insecure_registries=self._config.insecure_registries,
        )

    def candidates(self, text: str) -> tuple[Reference, ...]:
        """Say which images a reference may mean, in the order in which they are tried.

        A short name is Docker Hub's, unless the configuration leaves that to registries.conf.

        Raises:
            InvalidReference: The text is no reference.
            UsageError: registries.conf does not say what it means, or says too much.
        """
        if self._config.short_names == "registries.conf":
            return candidates_for_short_name(text, self._registries())
        return (Reference.parse(text),)

    def repository(self, text: str) -> Reference:
        """Say which repository a name without tag and digest means; there is nobody to search several for it.

        Raises:
            InvalidReference: The text is no reference.
            UsageError: It has a tag or a digest, or is a registry; or registries.conf does not say what it means, or
                says too much.
        """
        first = text.partition(":")[0]
        if "/" not in text and ("." in first or first == "localhost"):
            raise UsageError(f"{text} is a registry, not a repository", hint=f"micropod-img tags {text}/NAME")
        if set(text.rpartition("/")[2]) & {":", "@"}:
            name = Reference.parse(text).name
            raise UsageError(f"{text} is an image, not a repository", hint=f"micropod-img tags {name}")
        candidates = self.candidates(text)
        if len(candidates) > 1:
            choices = " or ".join(candidate.name for candidate in candidates)
            raise UsageError(f"{text} may be in several registries", code="short-name", hint=f"write {choices}")
        return candidates[0]

    def _registries(self) -> Registries:
        with self._loading:
            if self._loaded is None:
                named = self._options.registries_conf
                self._loaded = load_registries(named or self._config.registries_conf, self._environment)
                for warning in self._loaded.warnings:
                    self._sink(progress.Notice("", warning))
            return self._loaded
