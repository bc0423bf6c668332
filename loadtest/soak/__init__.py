"""The soak test, ``python -m loadtest.soak``: failures are injected into a loaded system, which has to recover."""
