"""What is tried on the idle color before the pointer moves, kind by kind."""
