"""What several commands need, of which `replay` is one: nothing here knows Kafka or a cluster."""

import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sf_healer.adapters import policy_file
from sf_healer.core.policy import PolicyBook, PolicyError
from sf_healer.settings import SettingsError

F = TypeVar("F", bound=Callable[..., Any])


def read_policies(file: Path | None, *, setting: str = "--policy") -> PolicyBook:
    """Read a policy file, the shipped one without; raises SettingsError that names where it was set."""
    path = file or policy_file.SHIPPED_POLICY
    try:
        return policy_file.read(path).book
    except PolicyError as error:
        raise SettingsError(setting, f"{path}: {error}") from None


def refuse_special(file: Path) -> None:
    """Raise click.UsageError where a new file would take the place of a device, a pipe, a link or a directory."""
    if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
        raise click.UsageError(f"{file} is no regular file")


def markdown_option(page: str) -> Callable[[F], F]:
    """Ask for a page of the documentation in the place of a table."""
    return click.option("--markdown", "as_markdown", is_flag=True, help=f"Print the page {page} instead.")


class NumberRange(click.FloatRange):
    """Numbers of a range; click's own lets nan pass, which is neither below nor above it."""

    name = "float"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Give the number; fails as click's does."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{number} is not a number.", param, ctx)
        return number
