"""Recipes: one YAML file each, naming its source, and how they and the command line become arguments."""

from hf_ssl.recipes.parsing import YamlDict, parse_arguments, read_recipe, recipe_names

__all__ = ["YamlDict", "parse_arguments", "read_recipe", "recipe_names"]
