"""Recipes: one YAML file each, naming its source, and how they and the command line become arguments."""

from hf_ssl.recipes.parsing import (
    RECIPES,
    check_choices,
    parse_arguments,
    read_recipe,
    recipe_names,
    take_recipe,
    yaml_mapping,
)

__all__ = ["RECIPES", "check_choices", "parse_arguments", "read_recipe", "recipe_names", "take_recipe", "yaml_mapping"]
