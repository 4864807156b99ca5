"""A fleet as it is run, clients who note all that they see, and faults: what both sides saw of each, and the judge."""
