"""How far a variant is from the oracle."""
