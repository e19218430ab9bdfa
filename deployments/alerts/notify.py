"""A notification block is where Prefect sends a message: one that the user made, or one that we make from a URL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from pgproof.errors import ConfigError
from pgproof.secret import resolve_secret

WEBHOOK = "custom-webhook/pgproof-webhook"
MAIL = "slack-webhook/pgproof-mail"  # Prefect's block of that name takes any URL that Apprise knows
_CAPABILITY = "notify"


def find_blocks(client: Any, names: Sequence[str]) -> list[UUID]:
    """The ids of notification blocks by their names.

    Args:
        client: of the server.
        names: such as ``slack-webhook/oncall``.

    Raises:
        ConfigError: one is no name, is not there, or cannot notify.
    """
    return [_find(client, name) for name in names]


def _find(client: Any, name: str) -> UUID:
    from prefect.exceptions import ObjectNotFound

    kind, slash, document = name.partition("/")
    if not (kind and slash and document):
        raise ConfigError(f'notification block "{name}" has no type', hint="such as slack-webhook/oncall")
    try:
        found = client.read_block_document_by_name(document, kind, include_secrets=False)
    except ObjectNotFound as error:
        raise ConfigError(
            f'notification block "{name}" does not exist',
            f"There are: {', '.join(known_blocks(client)) or 'none'}.",
            "make it in the UI (Blocks, +), or let pgproof alerts apply --webhook URL or --mailto URL make one",
        ) from error
    if _CAPABILITY not in found.block_schema.capabilities:
        raise ConfigError(f'block "{name}" cannot notify', hint="choose a block of a notification type")
    identifier: UUID = found.id
    return identifier


def known_blocks(client: Any) -> list[str]:
    """Every block that can notify, by name."""
    body = {"block_schemas": {"block_capabilities": {"all_": [_CAPABILITY]}}, "include_secrets": False}
    found = client.request("POST", "/block_documents/filter", json=body).json()
    return sorted(f"{one['block_type']['slug']}/{one['name']}" for one in found if one.get("name"))


def name_of_block(client: Any, identifier: UUID) -> str:
    """The name of a block by its id; says so when somebody removed it."""
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_block_document(identifier, include_secrets=False)
    except ObjectNotFound:
        return f"{identifier} (removed)"
    return f"{found.block_type.slug}/{found.name}"


def save_webhook(url: str) -> str:
    """Make or change the block that posts JSON to a URL: ``text``, ``subject`` and ``body``.

    Args:
        url: or where it is kept, as ``env:NAME`` or ``file:/path``. It is a secret of the block: tokens are in it.

    Raises:
        ConfigError: it is no URL.
    """
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    address = _secret(url)
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
        raise ConfigError(
            "--webhook is no URL", hint="such as https://hooks.example.com/pgproof, or env:NAME"
        )
    words = {"text": "{{subject}}\n\n{{body}}", "subject": "{{subject}}", "body": "{{body}}"}
    block = CustomWebhookNotificationBlock(
        name="pgproof", url="{{address}}", json_data=words, secrets={"address": address}
    )
    block.save(WEBHOOK.split("/")[1], overwrite=True)
    return WEBHOOK


def save_mail(url: str) -> str:
    """Make or change the block that sends mail.

    Args:
        url: of Apprise, such as ``mailtos://user:password@smtp.example.com?to=dba@example.com``, or where it is kept.

    Raises:
        ConfigError: Apprise does not know it.
    """
    import apprise
    from prefect.blocks.notifications import SlackWebhook

    address = _secret(url)
    known = address.startswith(("mailto://", "mailtos://")) and apprise.Apprise.instantiate(
        address, suppress_exceptions=True
    )
    if not known:  # it is not shown: a password is in it
        raise ConfigError(
            "--mailto cannot be read",
            hint='such as "mailtos://user:password@smtp.example.com?from=pgproof@example.com&to=dba@example.com", '
            "or env:NAME",
        )
    if "format" not in parse_qs(urlsplit(address).query):  # Apprise sends HTML, which loses the lines
        address += ("&" if urlsplit(address).query else "?") + "format=text"
    SlackWebhook(url=address).save(MAIL.split("/")[1], overwrite=True)
    return MAIL


def _secret(text: str) -> str:
    return resolve_secret(text).get_secret_value() if text.startswith(("env:", "file:")) else text
