"""juggler.0 as pure code: messages, their JSON, subprotocols. No I/O, no clock, no randomness."""
