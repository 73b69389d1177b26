"""`dask-site history`: what your clusters did, where their core-hours went, what it cost."""

from __future__ import annotations

from importlib import import_module

import click

_LOOKING = "dask_site.history.commands.looking"
_COMPARING = "dask_site.history.commands.comparing"
_KEEPING = "dask_site.history.commands.keeping"
#: From each command to the module that has it, in the order of the help text.
COMMANDS = {
    "ls": _LOOKING,
    "show": _LOOKING,
    "where": _COMPARING,
    "diff": _COMPARING,
    "cost": _LOOKING,
    "jobs": _LOOKING,
    "advise": _LOOKING,
    "export": _KEEPING,
    "forget": _KEEPING,
    "open": _KEEPING,
}
#: Those for the people who run the service.
ADMIN = ("serve", "backup", "restore", "migrate", "version")


class _Lazy(click.Group):
    """Imports a command when it is called, so that each starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return [*COMMANDS, *ADMIN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if cmd_name in COMMANDS:
            found: dict[str, click.Command] = import_module(COMMANDS[cmd_name]).COMMANDS
            return found[cmd_name]
        if cmd_name in ADMIN:
            commands = import_module("dask_site.history.command_serve").ADMIN_COMMANDS
            return next((c for c in commands if c.name == cmd_name), None)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in (("Commands", tuple(COMMANDS)), ("For administrators", ADMIN)):
            found = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name, c.get_short_help_str(200)) for name, c in found if c is not None]
            with formatter.section(title):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], names, 1)
            said = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
            raise click.UsageError(f"No such command {args[0]!r}; {said}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\n".join(
        [
            "\b",
            "Examples:",
            "  dask-site history ls",
            "  dask-site history show",
            "  dask-site history where --by span",
            "  dask-site history diff 3f2a 91c0",
        ]
    ),
)
def history() -> None:
    """Look up what your clusters did, where their core-hours went, and what it cost.

    A cluster goes by the first characters of its id, at least 4; - is the last one.
    """
