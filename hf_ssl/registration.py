"""Registers the methods with transformers' Auto classes, without importing transformers for it.

Importing transformers and timm takes seconds. So a method's config is registered when `AutoConfig` comes to life, and
its models when `AutoModel` does: at once if that is imported already, otherwise right after it is.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

CONFIGS = "transformers.models.auto.configuration_auto"
MODELS = "transformers.models.auto.modeling_auto"


def places(methods: Mapping[str, str]) -> dict[str, str]:
    """The module of each public class of some methods.

    Args:
        methods: the prefix of each method's classes by its `model_type`, such as `{"mae": "MAE"}`.
    """
    modules = {}
    for model_type, prefix in methods.items():
        package = f"hf_ssl.models.{model_type}"
        modules[f"{prefix}Config"] = f"{package}.configuration_{model_type}"
        for name in (f"{prefix}Model", f"{prefix}ForPreTraining"):
            modules[name] = f"{package}.modeling_{model_type}"
    return modules


def register_with_transformers(methods: Mapping[str, str]) -> None:
    """Make `AutoConfig`, `AutoModel` and `AutoModelForPreTraining` know some methods, now or once they exist.

    Args:
        methods: as in `places`.
    """
    modules = places(methods)

    def get(name: str) -> type:
        return getattr(importlib.import_module(modules[name]), name)

    def register_configs() -> None:
        from transformers.models.auto.configuration_auto import AutoConfig

        for model_type, prefix in methods.items():
            AutoConfig.register(model_type, get(f"{prefix}Config"))

    def register_models() -> None:
        from transformers.models.auto.modeling_auto import AutoModel, AutoModelForPreTraining

        for prefix in methods.values():
            AutoModel.register(get(f"{prefix}Config"), get(f"{prefix}Model"))
            AutoModelForPreTraining.register(get(f"{prefix}Config"), get(f"{prefix}ForPreTraining"))

    call_after_import(CONFIGS, register_configs)
    call_after_import(MODELS, register_models)


def call_after_import(name: str, call: Callable[[], None]) -> None:
    """Call once the module `name` is imported: now if it is, otherwise when its first import is over."""
    if any(isinstance(finder, _AfterImport) and finder.name == name for finder in sys.meta_path):
        return
    # The finder comes first: a thread that imports the module meanwhile meets it, or has filled sys.modules.
    finder = _AfterImport(name, call)
    sys.meta_path.insert(0, finder)
    if name in sys.modules:
        # Waits for a thread that is still at it.
        importlib.import_module(name)
        finder.fire()


class _AfterImport(MetaPathFinder):
    """Finds one module as the other finders do, and calls when it has been executed; of others it knows nothing."""

    def __init__(self, name: str, call: Callable[[], None]):
        self.name, self.call = name, call

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        found = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            # An import that fails leaves the finder in place, for the next try.
            execute(module)
            del spec.loader.exec_module
            self.fire()

        spec.loader.exec_module = execute_and_call
        return spec

    def fire(self) -> None:
        """Leave, and call; by the first of several threads."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self.call()
