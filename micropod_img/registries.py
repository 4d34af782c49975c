"""`RegistryService`: what is done at registries besides pulling: push, list tags, plan a pull, log in and out."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from micropod_img import progress as events
from micropod_img.cancellation import Cancellation
from micropod_img.pull.hosts import HostOptions, Hosts
from micropod_img.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from micropod_img.config import Config
    from micropod_img.platforms import Platform
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.endpoints import Endpoint
    from micropod_img.pull.login import LoginReport, LogoutReport
    from micropod_img.pull.login_check import LoginCheck, LoginTarget
    from micropod_img.pull.secret import Credential
    from micropod_img.reports import PushReport
    from micropod_img.run import Completed
    from micropod_img.store.store import Store


class RegistryService:
    """What is done at registries for one store.

    Args:
        store: The store.
        config: The configuration.
        program: Returns the path of the verified crane.
    """

    def __init__(self, store: Store, config: Config, program: Callable[[], Path]) -> None:
        self._store = store
        self._config = config
        self._program = program

    def push(
        self,
        source: str,
        destination: str | Reference | None = None,
        *,
        platform: Platform,
        strict: bool = False,
        all_platforms: bool = False,
        options: HostOptions | None = None,
        progress: ProgressSink | None = None,
    ) -> PushReport:
        """Push an image of the store, or a whole index, to a registry.

        Args:
            source: A reference, a digest, or a unique prefix of one.
            destination: Where to; to where the source's name says if None.
            platform: The platform to choose where several are here.
            strict: Whether only exactly this platform will do; one image of an index is then pushed, and not the index.
            all_platforms: Whether the whole index is pushed also where its images were pulled one by one.
            options: How the registry is reached.
            progress: Is told of progress.

        Raises:
            NotFoundError: It is not here, or not all of the index is; the message says what is missing.
            UsageError: Nothing says where to push it.
            MicropodError: Every kind that CONTRACT.md, "Exit status", lists.
        """
        from micropod_img.push import Push, PushRequest  # noqa: PLC0415 - not for the other use cases

        target = Reference.parse(destination) if isinstance(destination, str) else destination
        sink = progress or events.silent
        push = Push(self._store, self._program(), self._hosts(options, sink), sink=sink, cancellation=Cancellation())
        return push.push(PushRequest(source, target, platform, strict=strict, all_platforms=all_platforms))

    def tags(
        self, repository: str, *, options: HostOptions | None = None, progress: ProgressSink | None = None
    ) -> tuple[str, ...]:
        """Return the tags of a repository, sorted as versions.

        Args:
            repository: A reference without tag and digest.
            options: How the registry is reached.
            progress: Is told of progress.

        Raises:
            MicropodError: Every kind that CONTRACT.md, "Exit status", lists.
        """
        from micropod_img.pull.tags import list_tags  # noqa: PLC0415 - not for the other use cases

        sink = progress or events.silent
        return list_tags(
            repository, self._program(), self._hosts(options, sink), sink=sink, cancellation=Cancellation()
        )

    def repository(self, name: str, *, options: HostOptions | None = None) -> Reference:
        """Say which repository `tags` lists the tags of, where registries.conf may decide about short names.

        Raises:
            UsageError: It names none, or several.
        """
        return self._hosts(options, events.silent).repository(name)

    def login(self, registry: str, credential: Credential, *, options: HostOptions | None = None) -> LoginReport:
        """Check a credential against a registry, and store it where `login_file` says.

        Args:
            registry: ``HOST[:PORT]`` or ``HOST[:PORT]/NAMESPACE``.
            credential: What to store.
            options: How the registry is reached.

        Raises:
            AuthError: The registry refused it, or it would have to be sent over plain HTTP.
            MicropodError: Every kind that CONTRACT.md, "Exit status", lists.
        """
        from micropod_img.pull.login import login  # noqa: PLC0415 - not for the other use cases
        from micropod_img.pull.login_check import check_login  # noqa: PLC0415 - the same

        given = options or HostOptions()

        def check(target: LoginTarget, credential: Credential) -> LoginCheck:
            endpoint = self._hosts(given, events.silent).direct_endpoint(target.probe)

            def run_crane(arguments: Sequence[str], *, host: str, credential: Credential) -> Completed:
                hosts = self._hosts(replace(given, auth=credential), events.silent)
                return self._run_crane(arguments, target, host, endpoint, hosts)

            return check_login(target, credential, run_crane=run_crane, insecure=endpoint.insecure)

        return login(
            registry,
            credential,
            environment=os.environ,
            check=check,
            auth_file=self._config.auth_file,
            on_wait=self._store.on_wait,
        )

    def logout(self, registry: str) -> LogoutReport:
        """Remove a registry's credential from where `login` stores it.

        Raises:
            MicropodError: As `micropod_img.pull.login.logout`.
        """
        from micropod_img.pull.login import logout  # noqa: PLC0415 - not for the other use cases

        return logout(registry, environment=os.environ, auth_file=self._config.auth_file, on_wait=self._store.on_wait)

    def _hosts(self, options: HostOptions | None, sink: ProgressSink) -> Hosts:
        return Hosts(self._config, options or HostOptions(), os.environ, sink)

    def _run_crane(
        self, arguments: Sequence[str], target: LoginTarget, host: str, endpoint: Endpoint, hosts: Hosts
    ) -> Completed:
        """Run crane with one credential; how long it may take is decided as for a small request of a pull."""
        from micropod_img import run  # noqa: PLC0415 - not for the other use cases
        from micropod_img.pull.access import open_access  # noqa: PLC0415 - the same
        from micropod_img.pull.crane import timed_out  # noqa: PLC0415 - the same
        from micropod_img.pull.crane_errors import Request  # noqa: PLC0415 - the same
        from micropod_img.pull.private_place import private_place  # noqa: PLC0415 - the same

        limits = hosts.limits()
        with private_place() as directory:
            access = open_access(endpoint, hosts.settings, directory)
            access = access if endpoint.insecure else access.without_plain_http()
            if access.endpoint.host != host:
                raise AssertionError("both follow from the same rule")
            try:
                return run.run([str(self._program()), *arguments], env=access.environment, timeout=limits.for_request())
            except run.ChildTimeoutError as error:
                raise timed_out(Request(str(target), target.host, "login"), limits) from error
