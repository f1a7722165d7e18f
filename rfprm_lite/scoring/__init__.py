"""A call, from text to result."""
