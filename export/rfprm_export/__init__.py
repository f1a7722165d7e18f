"""rfprm-export: PyTorch process reward models to bundles for rfprm-lite."""
