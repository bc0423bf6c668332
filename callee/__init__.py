"""The callee's side: functions bound to URIs, and the worker that runs them.

::

    from callee import Callee

    rpc = Callee()

    @rpc.register("greet")
    def greet(name):
        return f"hello, {name}"

Run it with ``juggler-callee MODULE:rpc``, or with `callee.worker.Worker` from a program of your own.
"""

from callee.registry import Callee

__all__ = ["Callee"]
