"""What juggler is compared with: a responder or server for each peer, and the benchmark that measures both in turn."""
