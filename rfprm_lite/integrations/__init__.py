"""Rewards for other people's libraries, each in a module of its own that needs that library."""
