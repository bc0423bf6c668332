"""A chat with rooms, a history in SQLite and a web page. Run it with ``make chat``."""
