"""The model card: its text, made from results.json, and the code on it."""
