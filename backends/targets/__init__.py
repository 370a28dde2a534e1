"""backends.targets."""
