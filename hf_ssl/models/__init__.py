"""Methods: one folder each, an objective around a timm encoder."""
