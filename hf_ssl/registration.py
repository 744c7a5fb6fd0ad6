"""Registers the methods with transformers' Auto classes, without importing transformers for it.

Importing transformers and timm takes seconds. So a method's config is registered when `AutoConfig` comes to life, and
its models when `AutoModel` does: at once if that is imported already, otherwise right after it is. A registration that
fails makes that import fail too, and is tried again at the next one.
"""

import importlib
import sys
import threading
import warnings
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

    A class of somebody else that has a method's `model_type` keeps it, with a warning; the method's own classes work
    all the same.

    Args:
        methods: as in `places`.
    """
    modules = places(methods)

    def get(name: str) -> type:
        return getattr(importlib.import_module(modules[name]), name)

    def is_free(model_type: str, known: Mapping[str, type]) -> bool:
        """Whether nobody has it, or we do."""
        name = f"{methods[model_type]}Config"
        return model_type not in known or (known[model_type].__module__, known[model_type].__name__) == (
            modules[name],
            name,
        )

    def register_configs() -> None:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

        for model_type, prefix in methods.items():
            if is_free(model_type, CONFIG_MAPPING):
                AutoConfig.register(model_type, get(f"{prefix}Config"))
            else:
                other = CONFIG_MAPPING[model_type]
                warnings.warn(
                    f"AutoConfig knows the model_type '{model_type}' as {other.__module__}.{other.__qualname__} "
                    f"already, which stays; use hf_ssl.{prefix}Model and hf_ssl.{prefix}ForPreTraining by name.",
                    stacklevel=2,
                )

    def register_models() -> None:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import AutoModel, AutoModelForPreTraining

        for model_type, prefix in methods.items():
            if not is_free(model_type, CONFIG_MAPPING):
                continue
            AutoModel.register(get(f"{prefix}Config"), get(f"{prefix}Model"))
            AutoModelForPreTraining.register(get(f"{prefix}Config"), get(f"{prefix}ForPreTraining"))

    call_after_import(CONFIGS, register_configs)
    call_after_import(MODELS, register_models)


def call_after_import(name: str, call: Callable[[], None]) -> None:
    """Call once the module `name` is imported: now if it is, otherwise when its first import is over.

    A call that raises makes the import fail, and comes again at the next one; or, if the module was imported already,
    raises here, and comes again with the next `call_after_import` of the module. One that waits already is not added.
    """
    finder = next(
        (finder for finder in sys.meta_path if isinstance(finder, _AfterImport) and finder.name == name), None
    )
    if finder is None:
        # It comes first: a thread that imports the module meanwhile meets it, or has filled sys.modules.
        finder = _AfterImport(name)
        finder.calls.append(call)
        sys.meta_path.insert(0, finder)
    elif call not in finder.calls:
        finder.calls.append(call)
    if name in sys.modules:
        # Waits for a thread that is still at it.
        importlib.import_module(name)
        finder.fire()


class _AfterImport(MetaPathFinder):
    """Finds one module as the other finders do, and calls when it has been executed; of others it knows nothing."""

    def __init__(self, name: str):
        self.name = name
        self.calls: list[Callable[[], None]] = []
        self.firing = False
        self.lock = threading.RLock()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        found = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            # An import or a call that fails leaves the finder in place, for the next try.
            execute(module)
            del spec.loader.exec_module
            self.fire()

        spec.loader.exec_module = execute_and_call
        return spec

    def fire(self) -> None:
        """Call, in the first of several threads, and leave when every call has returned."""
        with self.lock:
            if self.firing:  # a call imports the module again
                return
            self.firing = True
            try:
                while self.calls:
                    self.calls[0]()
                    del self.calls[0]
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
            finally:
                self.firing = False
