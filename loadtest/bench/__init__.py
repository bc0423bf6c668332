"""Benchmarks, one a module, each named after what it measures; run them with ``python -m loadtest.bench``.

The whole system: `rpc`, `fan`, `latency`, `ladder`, `memory`, `connect`, `scale`. One layer, each a program of its own:
`websocket`, `connection`, `redis_link`, `metrics`, `callee`. `harness` runs, reports, draws and compares them;
`generator` is the process that makes the load.
"""
