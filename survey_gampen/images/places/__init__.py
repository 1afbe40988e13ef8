"""Where files lie: a folder, a server, an object store; what is downloaded is kept for a node."""
