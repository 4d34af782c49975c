"""One module for each command, imported when it is the one that was asked for.

Each has an ``app`` with one function, whose parameters are the command's and which returns a `Result`; nothing here
prints. Annotations are evaluated by typer, so what they name is imported for good and not for the type checker alone.
"""
