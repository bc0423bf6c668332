"""A second opinion: exact accounts of raw websockets, which share no code with juggler and its clients."""
