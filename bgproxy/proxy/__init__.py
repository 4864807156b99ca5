"""The data path: it moves bytes between a client and an agent, and nothing in it waits for the store."""
