"""The admin API: what operators and their tools ask of a running proxy, on an address of its own."""
