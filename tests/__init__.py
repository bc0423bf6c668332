"""The tests; see ``tests/plugin.py`` for how pytest is set up."""
