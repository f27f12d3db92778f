"""The operator plane: a unix socket for people and tools on this host. Who calls is known by the socket's peer."""
