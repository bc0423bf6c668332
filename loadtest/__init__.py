"""Benchmarks (`bench`), load tests with locust (`locust`), a soak test (`soak`) and a load generator (`calls`).

They are not part of the distribution.

The modules beside this one are what they share: processes, a stack of Redis, server and callee, and readings of /proc.
"""
