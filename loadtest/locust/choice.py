"""Which users a test has. PURE: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

DEFAULT = "MixedUser"


def chosen(classes: Sequence[type], names: Iterable[str], tags: Iterable[str]) -> list[Any]:
    """Return the user classes to run.

    Args:
        classes: those that there are, or that were named.
        names: those named on the command line.
        tags: those named there. locust would spawn classes without such a task, too, and they would fail.
    """
    wanted = set(tags)
    if wanted:
        return [each for each in classes if wanted & _tags(each)]
    if not list(names):
        return [each for each in classes if each.__name__ == DEFAULT]
    return list(classes)


def _tags(user: Any) -> set[str]:
    return {tag for task in user.tasks for tag in getattr(task, "locust_tag_set", ())}
