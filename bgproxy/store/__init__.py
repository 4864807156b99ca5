"""The store agrees: what all nodes of a fleet hold in common, and each process's copy of it."""
