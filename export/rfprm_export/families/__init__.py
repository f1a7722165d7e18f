"""What differs between models, as data."""
