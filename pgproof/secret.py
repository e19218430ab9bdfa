"""A secret is named in the configuration, and never stands there: a variable of the environment, a file or a block."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pgproof.errors import ConfigError

if TYPE_CHECKING:  # programs ask for the variables, before anything heavy is imported
    from pydantic import SecretStr

VARIABLES: set[str] = set()  # of the environment, that a configuration names; programs do not get them


def reference(text: object) -> object:
    """Refuse what is no reference to a secret, and remember the variable that it names.

    Raises:
        ValueError: it may be the secret itself.
    """
    if isinstance(text, str) and not text.startswith(("env:", "file:", "block:")):
        raise ValueError('a secret is given by reference: "env:NAME", "file:/path" or "block:type/name"')
    if isinstance(text, str) and text.startswith("env:"):
        VARIABLES.add(text.removeprefix("env:"))
    return text


def resolve_secret(text: str) -> SecretStr:
    """Read the secret that a reference names.

    Raises:
        ConfigError: the variable is not set, the file cannot be read, or the reference is a Prefect
            block, which only a flow can read.
    """
    from pydantic import SecretStr

    kind, _, name = text.partition(":")
    if kind == "env":
        value = os.environ.get(name)
        if value is None:
            raise ConfigError(f'environment variable "{name}" is not set', hint=f"export {name}=...")
        return SecretStr(value)
    if kind == "file":
        try:
            return SecretStr(Path(name).read_text("utf-8").strip())
        except OSError as error:
            raise ConfigError(f'cannot read secret file "{name}"', f"{error.strerror}.") from error
        except ValueError:  # without a cause: a UnicodeDecodeError holds the secret
            raise ConfigError(f'cannot read secret file "{name}"', "It is not UTF-8 text.") from None
    raise ConfigError(
        f'secret "{text}" is a Prefect block',
        "Only a flow run can read blocks; this command runs without Prefect.",
        'use "env:NAME" or "file:/path", or run the flow',
    )
