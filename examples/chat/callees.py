"""The functions of the chat. Messages are stored in SQLite and published on the channel of the room."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from callee import Callee, CallError, publish

DATABASE = os.environ.get("CHAT_DATABASE", "chat.db")

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY,
    room TEXT NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS by_room ON messages (room, number);
"""

Name = Annotated[str, Meta(min_length=1, max_length=40)]
Text = Annotated[str, Meta(min_length=1, max_length=2000)]
Limit = Annotated[int, Meta(ge=1, le=200)]

rpc = Callee()


@dataclass
class Message:
    """A message. ``at`` is in seconds since 1970."""

    number: int
    room: str
    name: str
    text: str
    at: float


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """Open the database for one transaction."""
    with closing(sqlite3.connect(DATABASE, timeout=5)) as connection, connection:
        connection.executescript(SCHEMA)
        yield connection


# SQLite blocks without gevent's knowledge, so these functions run in threads.


@rpc.register("chat.say", pool="thread")
def say(room: Name, name: Name, text: Text) -> Message:
    """Post a message in a room."""
    if text.isspace():
        raise CallError("text: expected more than white space", code="empty")
    at = time.time()
    with database() as connection:
        insert = "INSERT INTO messages (room, name, text, at) VALUES (?, ?, ?, ?)"
        number = connection.execute(insert, (room, name, text, at)).lastrowid
    message = Message(number or 0, room, name, text, at)
    publish(f"chat.{room}", message)
    return message


@rpc.register("chat.history", pool="thread")
def history(room: Name, limit: Limit = 50) -> list[Message]:
    """Return the last messages of a room, oldest first."""
    with database() as connection:
        select = "SELECT number, room, name, text, at FROM messages WHERE room = ? ORDER BY number DESC LIMIT ?"
        rows = connection.execute(select, (room, limit)).fetchall()
    return [Message(*row) for row in reversed(rows)]


@rpc.register("chat.rooms", pool="thread")
def rooms() -> list[str]:
    """Return the names of all rooms with messages."""
    with database() as connection:
        return [room for (room,) in connection.execute("SELECT DISTINCT room FROM messages ORDER BY room LIMIT 1000")]
