"""The ``pgproof`` command: thin, with imports as late as possible."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the console script's entry point.

    Args:
        arguments: without the program; those of the process by default.

    Returns:
        0 success, 1 a finding, 2 usage, other codes as docs/errors.md lists them.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if "wal" in words:  # started by PostgreSQL for every segment: before anything heavy is imported
        from pgproof.commands.wal_files import main as wal_main

        code = wal_main(words)
        if code is not None:
            return code
    from pgproof.commands.application import run

    return run(words)


if __name__ == "__main__":
    sys.exit(main())
