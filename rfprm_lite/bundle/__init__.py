"""What lies on disk and on the hub. The only room that imports huggingface-hub."""
