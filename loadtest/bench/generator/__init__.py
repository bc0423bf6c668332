"""The load generator: a process on bare sockets and epoll, which costs less than the server that it measures."""
