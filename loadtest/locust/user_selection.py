"""Selection of user classes by name or tag. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

DEFAULT = "MixedUser"


def select_users(classes: Sequence[type], names: Iterable[str], tags: Iterable[str]) -> list[Any]:
    """Return the user classes to run.

    Args:
        classes: all classes, or those named on the command line.
        names: class names on the command line.
        tags: tags on the command line. locust itself also spawns classes without such a task, which fail.
    """
    wanted = set(tags)
    if wanted:
        return [each for each in classes if wanted & _tags(each)]
    if not list(names):
        return [each for each in classes if each.__name__ == DEFAULT]
    return list(classes)


def _tags(user: Any) -> set[str]:
    return {tag for task in user.tasks for tag in getattr(task, "locust_tag_set", ())}
