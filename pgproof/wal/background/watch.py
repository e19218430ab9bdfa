"""A watch sleeps until something changes in a directory, as the kernel says (inotify(7)), or the time is over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

_POLL = 0.2  # seconds, where the kernel gives no watch (fs.inotify.max_user_instances)


class Watch:
    """Directories that are watched for names that appear and disappear.

    Args:
        directories: to watch; they exist.
    """

    def __init__(self, directories: Sequence[str]) -> None:
        from inotify_simple import INotify, flags

        self._inotify: INotify | None = None
        with contextlib.suppress(OSError):
            self._inotify = INotify()
            for directory in directories:
                mask = flags.CREATE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE
                self._inotify.add_watch(directory, mask)

    def wait(self, seconds: float) -> None:
        """Until something changed, or the time is over; what changed is for the caller to see."""
        if self._inotify is None:
            time.sleep(min(seconds, _POLL))
        else:
            self._inotify.read(timeout=int(seconds * 1000))

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()


@contextlib.contextmanager
def watching(directories: Sequence[str]) -> Iterator[Watch]:
    """A watch for the time of a block."""
    watch = Watch(directories)
    try:
        yield watch
    finally:
        watch.close()
