"""What attackers try, with real sockets."""
