"""The PRM in PyTorch: what every variant is measured against."""
