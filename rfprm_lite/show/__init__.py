"""Results for people. Knows records; never results or PRMs."""
