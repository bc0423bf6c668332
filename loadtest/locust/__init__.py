"""Load tests of a juggler server with locust; see docs/load-testing.md.

Nothing is imported here, so that the modules without locust (the book, the recording client) work without it.
"""

if __name__ == "locust":
    # Python searched loadtest/ first, as with ``python -m locust`` in that directory.
    raise ImportError("this is loadtest.locust, not locust: start python in the project's root, not in loadtest/")
