"""Ready-made middleware, one behaviour a file, for `juggler.handler.chain`."""
