"""How responses are written: where their thinking ends, and where their steps do."""
