"""Where a session's keys stand in messages: pure, and declared as data. No clock, no await, no third-party import."""
