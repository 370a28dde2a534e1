"""backends.cpu."""
