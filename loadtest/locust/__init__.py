"""Load tests of a juggler server with locust; docs/load-testing.md shows how to run them.

Nothing is imported here, so that what needs no locust (the books, the recording client) can be had without it.
"""

if __name__ == "locust":
    # Python has looked into loadtest/ first, as it does for ``python -m locust`` in there.
    raise ImportError("this is loadtest.locust, not locust: start python from the project's root, not in loadtest/")
