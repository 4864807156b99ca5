"""What is on record of one release, as one document: gathered, and made a page."""
