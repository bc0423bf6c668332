"""Handlers and ready-made middleware, one behaviour a file.

::

    from juggler.handlers import chain
    from juggler.handlers.log import log_messages

    server = Server(..., handler=chain(log_messages()))
"""

from juggler.server.processing import Context, Handler, Middleware, chain, process_message

__all__ = ["Context", "Handler", "Middleware", "chain", "process_message"]
