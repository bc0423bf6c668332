"""Benchmarks (`bench`), load tests with locust (`locust`) and a soak test (`soak`); not part of the distribution.

The modules beside this one are what they share: processes, a stack of Redis, server and callee, and readings of /proc.
"""
