"""The database: a server of our own if none is given, its schema, and connections to it."""
