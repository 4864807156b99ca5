"""The rules decide: pure functions over frozen data. No clock, no await, no logging, no third-party import."""
