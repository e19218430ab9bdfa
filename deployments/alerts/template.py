"""A template is one alert as alerts.yaml describes it: the events that begin and end it, and what is said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pgproof.config import Seconds
from pgproof.errors import ConfigError
from pgproof.faults import message

PACKAGED = Path(__file__).resolve().parent.parent / "alerts.yaml"
SHORTEST_SILENCE = 10  # seconds: Prefect refuses less
SUBJECT = 79  # characters; a phone shows no more
_NAME = r"^[a-z0-9][a-z0-9-]{0,40}$"
_TITLE = r"^[^*?\[\]!]{1,60}$"  # Prefect matches the name of an automation by form
_EVENT = re.compile(r"[a-z0-9-]+(\.[A-Za-z0-9-]+)+")


def _events(value: object) -> object:
    """One event or a list of events, each a name without a wildcard."""
    names = [value] if isinstance(value, str) else value
    for name in names if isinstance(names, list) else []:
        if not isinstance(name, str) or not _EVENT.fullmatch(name):
            raise ValueError(f'"{name}" is no name of an event, such as "pgproof.wal.gap"')
    return names


Events = Annotated[tuple[str, ...], BeforeValidator(_events)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Silence(_Model):
    """Events that must keep coming.

    Args:
        of: any of them is a sign.
        seconds: without one, which is a message.
    """

    of: Events = Field(min_length=1)
    seconds: Seconds = Field(alias="for", ge=SHORTEST_SILENCE)


class _Messages(_Model):
    """What is said where an alert has no words of its own."""

    subject: str = Field("", max_length=1000)
    body: str = Field("", max_length=10_000)
    over_subject: str = Field("", max_length=1000)
    over_body: str = Field("", max_length=10_000)


class AlertTemplate(_Messages):
    """One alert; alerts.yaml explains the keys."""

    name: str = Field(pattern=_NAME)
    title: str = Field(pattern=_TITLE)
    about: str = Field("", max_length=300)
    when: Events = ()
    every: bool = False
    over: Events = ()
    silence: Silence | None = None
    flows: str | None = Field(None, pattern=r"^!?[a-z0-9*-]+$")
    each: bool = False
    enabled: bool = True

    def model_post_init(self, _: object) -> None:
        if bool(self.when) == bool(self.silence):
            raise ValueError("an alert has either when or silence")
        if self.silence and self.flows:
            raise ValueError("silence is of a cluster's events, not of flow runs")
        if self.when and not self.every and not self.over:
            raise ValueError(
                "an alert that nothing ends would be told once for ever: add over, or every: true"
            )
        if self.each and not (self.flows and self.every):
            raise ValueError("each needs flows, and every: true")

    def for_cluster(self, cluster: str) -> AlertTemplate:
        """The same with ``$cluster`` and ``$alert`` put in."""
        known = {"cluster": cluster, "alert": self.name}
        words = {key: Template(getattr(self, key)).safe_substitute(known) for key in _Messages.model_fields}
        return self.model_copy(update=words)


class _File(_Model):
    messages: _Messages = _Messages()
    alerts: tuple[AlertTemplate, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Alerts:
    """Every alert of one file."""

    path: Path
    templates: tuple[AlertTemplate, ...]

    def for_cluster(self, cluster: str) -> list[AlertTemplate]:
        return [template.for_cluster(cluster) for template in self.templates]


def read_alerts(path: Path | None = None) -> Alerts:
    """Read a file of alerts; by default the one that pgproof brings.

    Raises:
        ConfigError: it cannot be read, or a value is wrong; every wrong value is named.
    """
    chosen = path or PACKAGED
    try:
        tree = yaml.safe_load(chosen.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f'cannot read alerts "{chosen}"', f"{error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f'alerts "{chosen}" are not valid YAML', f"{' '.join(str(error).split())}."
        ) from error
    try:
        read = _File.model_validate(tree)
    except ValidationError as error:
        faults = "; ".join(
            f"{_place(tree, fault['loc'])}: {message(fault, _File)}" for fault in error.errors()
        )
        raise ConfigError(
            f'alerts "{chosen}" have wrong values', f"{faults}.", f"compare with {PACKAGED}"
        ) from error
    return Alerts(chosen, _checked(chosen, read))


def _checked(path: Path, read: _File) -> tuple[AlertTemplate, ...]:
    names = [alert.name for alert in read.alerts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f'alerts "{path}" name one alert twice', f"{', '.join(twice)}.", "each has a name of its own"
        )
    templates = tuple(_with_words(alert, read.messages) for alert in read.alerts)
    for template in templates:
        _check_words(path, template)
    return templates


def _with_words(alert: AlertTemplate, messages: _Messages) -> AlertTemplate:
    words = {key: getattr(alert, key) or getattr(messages, key) for key in _Messages.model_fields}
    return alert.model_copy(update=words)


def _check_words(path: Path, template: AlertTemplate) -> None:
    """Refuse words that Prefect could not fill in when it happens: then nobody would be told.

    Raises:
        ConfigError: a message is missing, or is no template of Jinja.
    """
    import jinja2

    needed = ("subject", "body", *(("over_subject", "over_body") if template.over else ()))
    for key in needed:
        words = getattr(template, key)
        if not words.strip():
            raise ConfigError(
                f'alert "{template.name}" of "{path}" has no {key}', hint="add it, or to messages"
            )
        try:
            jinja2.Environment(autoescape=False).parse(words)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f'alert "{template.name}" of "{path}" has a wrong {key}', f"{error.message}."
            ) from error


def _place(tree: Any, location: tuple[int | str, ...]) -> str:
    """Where a fault is, with the alert's name for its number."""
    parts = [str(part) for part in location]
    if len(location) > 1 and location[0] == "alerts" and isinstance(location[1], int):
        alert = tree["alerts"][location[1]]
        if isinstance(alert, Mapping) and alert.get("name"):
            parts[1] = str(alert["name"])
    return ".".join(parts)
