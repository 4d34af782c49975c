"""The command line as typer sees it: global options, and commands that are imported when they are asked for."""

from __future__ import annotations

import functools
import importlib
from types import MethodType
from typing import TYPE_CHECKING, Annotated, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from micropod_img.cli import output
from micropod_img.cli.result import Result
from micropod_img.cli.settings import Settings
from micropod_img.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    # Typer's own copy of click, which it does not export.
    from typer._click.core import Command, Context, Parameter

NAME: Final = "micropod-img"
COMMANDS: Final = (
    "pull",
    "images",
    "inspect",
    "tag",
    "rmi",
    "df",
    "gc",
    "verify",
    "unpack",
    "mount",
    "umount",
    "pod",
    "login",
    "logout",
    "push",
    "tags",
    "crane",
    "unshare",
    "doctor",
    "selftest",
    "version",
)
PASSED_THROUGH: Final = frozenset({"crane"})
"""Commands whose arguments are another program's; ours would shadow them."""


def invoke(arguments: Sequence[str], settings: Settings) -> Result | None:
    """Parse a command line and do what it says.

    Args:
        arguments: What stands behind the program's name.
        settings: Is told the global options and the command.

    Returns:
        What the command has to say; None if all is said, as after ``--help``.

    Raises:
        UsageError: It cannot be parsed.
        MicropodError: The command failed.
    """
    program = _program()
    try:
        with program.make_context(NAME, list(arguments), obj=settings) as context:
            try:
                result = program.invoke(context)
            finally:
                settings.command = settings.command or context.invoked_subcommand
    except typer.Exit:
        return None
    except (typer.TyperException, UsageError) as error:
        settings.as_json |= "--json" in arguments  # what could not be parsed was not taken note of
        if isinstance(error, UsageError):
            raise
        message = error.format_message()
        command = f"{NAME} {settings.command}" if settings.command else NAME
        raise UsageError(f"{message[:1].lower()}{message[1:]}", hint=f"see {command} --help") from error
    return result if isinstance(result, Result) else None


def answer_completion() -> None:
    """Let typer answer a shell that asks for completions; it exits when it has."""
    _program().main(prog_name=NAME)


class CommandGroup(TyperGroup):
    """Imports and builds a command when it is asked for: building all of them would double what parsing takes."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands, as help lists them."""
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Return a command.

        Raises:
            UsageError: There is none of this name.
        """
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing or cmd_name.startswith("-"):
                return None
            import difflib  # noqa: PLC0415 - for words that are wrong

            near = difflib.get_close_matches(cmd_name, COMMANDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"{NAME} --help lists the commands"
            raise UsageError(f"there is no command {cmd_name!r}", hint=hint)
        command = get_command(importlib.import_module(f"micropod_img.cli.commands.{cmd_name}").app)
        for one in (command, *getattr(command, "commands", {}).values()):
            if cmd_name not in PASSED_THROUGH:
                _add_global_options(one)
            _take_text(one.params)
            _show_plainly(one.params)
        return command

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """Return the command that is meant; ``--version`` wins over any."""
        if ctx.params.get("version"):
            return "version", self.get_command(ctx, "version"), []
        return super().resolve_command(ctx, args)


def _program() -> Command:
    app = typer.Typer(
        cls=CommandGroup,
        help="Container images for hosts without a daemon.",
        invoke_without_command=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_main_options)
    program = get_command(app)
    _add_global_options(program)
    _take_text(program.params)
    return program


def _main_options(
    ctx: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> Result | None:
    if ctx.invoked_subcommand is not None:
        return None
    if version:
        from micropod_img.cli.commands.version import version_result  # noqa: PLC0415 - asked for once in a while

        settings = ctx.ensure_object(Settings)
        settings.command = "version"
        return version_result(settings)
    raise UsageError("no command was given", hint=f"{NAME} --help lists them; {NAME} pull alpine is a start")


def _show_help(ctx: typer.Context, value: bool) -> bool:  # noqa: FBT001 - typer's signature
    if value and not ctx.resilient_parsing:
        output.write(ctx.get_help())
        raise typer.Exit
    return value


def _global_options(
    ctx: typer.Context,
    *,
    root: Annotated[
        str | None, typer.Option("--root", metavar="DIR", help="State directory, instead of $MICROPOD_ROOT.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="The one configuration to read.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print just the id or digest.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what went wrong.")] = False,
    show_help: Annotated[  # noqa: ARG001 - what it does, its callback does
        bool,
        typer.Option(
            "--help", "-h", is_eager=True, callback=_show_help, expose_value=False, help="Show this message and exit."
        ),
    ] = False,
) -> None:
    settings = ctx.ensure_object(Settings)
    settings.root = settings.root if root is None else root
    settings.config = settings.config if config is None else config
    settings.as_json |= as_json
    settings.quiet |= quiet
    settings.verbose |= verbose


def _add_global_options(command: Command) -> None:
    """Let a command take the global options; the main program does as well, so that they may stand on both sides."""
    shared = _global_command()
    names = [parameter.name for parameter in shared.params if parameter.expose_value]
    own = command.callback

    def callback(**values: object) -> object:
        given = {name: values.pop(name) for name in names}
        if shared.callback is not None:
            shared.callback(**given)
        return None if own is None else own(**values)

    command.callback = callback
    command.params += shared.params


@functools.cache
def _global_command() -> Command:
    """Return a command that has just the global options; built once, as that takes a millisecond."""
    app = typer.Typer(add_completion=False)
    app.command()(_global_options)
    return get_command(app)


def _take_text(parameters: Sequence[Parameter]) -> None:
    """Let parameters hand on the text of the command line as it stands.

    Typer builds a pydantic validator for each that is no flag: 120 ms at every start, more than all the rest. Ours are
    all text, which `micropod_img.cli.values` reads with errors of our own.
    """
    for parameter in parameters:
        parameter.process_value = MethodType(_process_text, parameter)  # type: ignore[method-assign]


def _show_plainly(parameters: Sequence[Parameter]) -> None:
    """Let help show arguments as other programs do: ``REF``, ``[DST]``; typer adds braces and Python's types."""
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            parameter.get_usage_pieces = MethodType(_usage_of_argument, parameter)  # type: ignore[method-assign]
            parameter.display_type_rich = MethodType(_no_type, parameter)  # type: ignore[attr-defined]


def _usage_of_argument(self: Parameter, ctx: Context) -> list[str]:  # noqa: ARG001 - click's signature
    name = f"{self.metavar or self.name.upper()}{'...' if self.nargs != 1 else ''}"
    return [name if self.required else f"[{name}]"]


def _no_type(self: Parameter, ctx: Context) -> None:  # noqa: ARG001 - typer's signature
    return None


def _process_text(self: Parameter, ctx: Context, value: object) -> object:
    if self.required and self.value_is_missing(value):
        ctx.fail(f"missing argument {self.metavar or self.name.upper()}")
    return value if self.callback is None else self.callback(ctx, self, value)
