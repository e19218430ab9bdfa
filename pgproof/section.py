"""A section of pgproof.toml: frozen, and without keys that nobody knows."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """The base of everything that pgproof.toml is read into."""

    # hide_input: a value put where a reference belongs must not show up in a traceback
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
