"""Bundles on disk and on the hub. Only this package imports huggingface-hub."""
