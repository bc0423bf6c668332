"""Ready-made middleware, one behaviour a file, for `juggler.server.processing.chain`."""
