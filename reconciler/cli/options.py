"""Options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

NEWEST = 200
"""So many runs of tasks are listed, unless another number is asked for."""

F = TypeVar("F", bound=Callable[..., Any])


def source_option(command: F) -> F:
    return click.option(
        "--source", default=".", show_default=True, metavar="PATH", help="The repository, or a plain directory."
    )(command)


def data_option(command: F) -> F:
    return click.option(
        "--data", default=None, metavar="DIR", help="The data directory.  [default: .reconciler in the source]"
    )(command)


def operator_option(command: F) -> F:
    return click.option(
        "--operator", default=None, metavar="FILE", help="operator.yaml  [default: the user's or the system's]"
    )(command)


def process_option(command: F) -> F:
    return click.option(
        "--allow-process-runtime",
        is_flag=True,
        help="Without a container engine, run agents as plain processes (less isolated).",
    )(command)


def output_option(command: F) -> F:
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Format."
    )(command)


def limit_option(command: F) -> F:
    return click.option(
        "--limit", type=click.IntRange(min=0), default=NEWEST, show_default=True, help="Tasks to list, newest; 0: all."
    )(command)
