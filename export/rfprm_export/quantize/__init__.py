"""What happens to weights on their way into a variant."""
