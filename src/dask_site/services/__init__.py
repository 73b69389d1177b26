"""What the services on login nodes have in common: sockets, systemd, who asks, what is noted."""
