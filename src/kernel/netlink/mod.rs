//! The transport every subsystem stands on: sockets, batches, dumps, errors (netlink(7)).
