"""A long run in which things break: ``python -m loadtest.soak``. At the end all is as it was at the beginning."""
