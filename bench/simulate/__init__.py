"""The protocol in a world of its own: real nodes' code, a clock that is a number, and a store that fails by plan."""
