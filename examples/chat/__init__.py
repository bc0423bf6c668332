"""A chat: rooms, a history in SQLite, a page. ``make chat`` runs it; these files are all of it."""
