"""Load tests of this repository's server with locust, on `juggler.locust`; see docs/load-testing.md."""

if __name__ == "locust":
    # Python searched loadtest/ first, as with ``python -m locust`` in that directory.
    raise ImportError("this is loadtest.locust, not locust: start python in the project's root, not in loadtest/")
