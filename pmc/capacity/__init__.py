"""What is free: memory, minors, ports, MAC addresses; and which move evens it out."""
