"""Between layouts: export to transformers' stock models, import of others' checkpoints."""
