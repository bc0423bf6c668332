"""juggler.0 and juggler.1 as pure code: messages, their JSON, subprotocols. No I/O, no clock, no randomness."""
