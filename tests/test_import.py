"""`import hf_ssl` is light, and transformers' Auto classes know the methods in either order of the imports."""

import ast
import importlib
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForPreTraining, PreTrainedConfig

import hf_ssl
from hf_ssl.registration import call_after_import, register_with_transformers

HF_SSL_FIRST = """
import sys, warnings
warnings.simplefilter("error")
import hf_ssl
heavy = {"torch", "transformers", "timm", "torchvision", "numpy"} & set(sys.modules)
assert not heavy, heavy
waiting = [finder for finder in sys.meta_path if type(finder).__module__ == "hf_ssl.registration"]
assert len(waiting) == 2

warnings.resetwarnings()
from transformers import AutoConfig, CONFIG_MAPPING
assert CONFIG_MAPPING["mae"].__name__ == "MAEConfig"
assert "timm" not in sys.modules
from transformers import AutoModel, AutoModelForPreTraining
config = AutoConfig.from_pretrained(sys.argv[1])
assert type(AutoModel.from_pretrained(sys.argv[1])).__name__ == "SimCLRModel"
assert AutoModelForPreTraining._model_mapping[CONFIG_MAPPING["mae"]] is hf_ssl.MAEForPreTraining
assert not set(waiting) & set(sys.meta_path)
"""
MODELS_FIRST = """
from hf_ssl import MAEForPreTraining
from transformers import AutoModel
assert AutoModel._model_mapping[MAEForPreTraining.config_class].__name__ == "MAEModel"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simclr")
    config = hf_ssl.SimCLRConfig(backbone="resnet18", backbone_kwargs={"channels": [8, 8, 8, 8]}, image_size=32)
    hf_ssl.SimCLRForPreTraining(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("code", [HF_SSL_FIRST, MODELS_FIRST], ids=["hf_ssl first", "a model first"])
def test_nothing_heavy_is_imported_until_it_is_used(code, folder):
    result = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_reloading_registers_again_what_transformers_forgot():
    """What happens if transformers comes first: its Auto classes are there already."""
    for mapping in (CONFIG_MAPPING, AutoModel._model_mapping, AutoModelForPreTraining._model_mapping):
        mapping._extra_content.clear()
    finders = list(sys.meta_path)
    importlib.reload(hf_ssl)
    importlib.reload(hf_ssl)
    assert sys.meta_path == finders
    for config, model, for_pretraining in (
        (hf_ssl.MAEConfig, hf_ssl.MAEModel, hf_ssl.MAEForPreTraining),
        (hf_ssl.SimCLRConfig, hf_ssl.SimCLRModel, hf_ssl.SimCLRForPreTraining),
    ):
        assert CONFIG_MAPPING[config.model_type] is config
        assert AutoModel._model_mapping[config] is model
        assert AutoModelForPreTraining._model_mapping[config] is for_pretraining


def test_editors_and_programs_see_the_same_names():
    tree = ast.parse(Path(hf_ssl.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    for_editors = {alias.name for node in block.body for alias in node.names}
    assert for_editors == set(hf_ssl.__all__)
    assert set(hf_ssl.__all__) <= set(dir(hf_ssl))
    for name in hf_ssl.__all__:
        value = getattr(hf_ssl, name)
        assert value.__name__ == name
        assert pickle.loads(pickle.dumps(value)) is value
    with pytest.raises(AttributeError, match="no attribute 'BYOLModel'"):
        hf_ssl.BYOLModel  # noqa: B018


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that can be imported and is not."""
    name = f"module_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield name
    assert sys.meta_path == finders
    sys.modules.pop(name, None)


def test_the_call_comes_once_after_the_module_was_executed(module):
    seen = []

    def call():
        seen.append(sys.modules[module].value)

    call_after_import(module, call)
    call_after_import(module, call)
    call_after_import(module, lambda: seen.append("another"))
    assert seen == []
    imported = importlib.import_module(module)
    assert seen == [1, "another"]
    importlib.reload(imported)
    assert seen == [1, "another"]
    call_after_import(module, lambda: seen.append("at once"))
    assert seen == [1, "another", "at once"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImportError])
@pytest.mark.parametrize("imported", [False, True])
def test_a_call_that_fails_comes_again(module, error, imported):
    """It is not lost, and no other with it; neither is one that has returned called twice."""
    if imported:
        importlib.import_module(module)
    tries, seen = [], []

    def fail_once():
        tries.append(sys.modules[module].value)
        if len(tries) == 1:
            raise error("once")

    def start():
        call_after_import(module, fail_once)
        call_after_import(module, lambda: seen.append("the next"))
        importlib.import_module(module)

    with pytest.raises(error, match="once"):
        start()
    assert (tries, seen) == ([1], [])
    if imported:
        start()
    else:
        importlib.import_module(module)
    assert (tries, seen) == ([1, 1], ["the next"])


def test_a_call_may_import_its_module_and_ask_for_more(module):
    seen = []

    def call():
        importlib.reload(sys.modules[module])
        call_after_import(module, lambda: seen.append("more"))
        seen.append("first")

    call_after_import(module, call)
    importlib.import_module(module)
    assert seen == ["first", "more"]


def test_the_class_of_somebody_else_stays_with_a_warning(monkeypatch):
    class MAEConfig(PreTrainedConfig):
        model_type = "mae"

    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "mae", MAEConfig)
    with pytest.warns(UserWarning, match=r"the model_type 'mae' as .*\.MAEConfig already, which stays; use hf_ssl\."):
        importlib.reload(hf_ssl)
    assert CONFIG_MAPPING["mae"] is MAEConfig
    assert CONFIG_MAPPING["simclr"] is hf_ssl.SimCLRConfig


def test_a_model_type_that_transformers_has_itself_is_no_crash():
    with pytest.warns(UserWarning, match=r"the model_type 'bert' as transformers\..*BertConfig already"):
        register_with_transformers({"bert": "Bert"})
    assert CONFIG_MAPPING["bert"].__module__.startswith("transformers.")


def test_a_failing_import_fails_as_it_would_and_the_next_one_counts(module, tmp_path):
    source = tmp_path / f"{module}.py"
    source.write_text("raise KeyError('its own')\n")
    seen = []
    call_after_import(module, lambda: seen.append(1))
    with pytest.raises(KeyError, match="its own") as caught:
        importlib.import_module(module)
    assert caught.value.__context__ is None and caught.traceback[-1].path == source
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there'"):
        importlib.import_module("not_there")
    assert seen == []
    source.write_text("value = 22\n")
    importlib.invalidate_caches()
    importlib.import_module(module)
    assert seen == [1]


def test_a_module_that_does_not_exist_is_still_not_found(module):
    call_after_import("not_there_at_all", lambda: pytest.fail("called"))
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there_at_all'"):
        importlib.import_module("not_there_at_all")
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "name", None) != "not_there_at_all"]


def test_several_threads_that_import_at_once_call_once(module, tmp_path):
    (tmp_path / f"{module}.py").write_text("import time\ntime.sleep(0.05)\nvalue = 1\n")
    seen = []
    call_after_import(module, lambda: seen.append(sys.modules[module].value))
    threads = [threading.Thread(target=importlib.import_module, args=(module,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1]


def test_the_call_waits_for_a_thread_that_is_still_importing(module, tmp_path, monkeypatch):
    started, go_on, seen = threading.Event(), threading.Event(), []
    monkeypatch.setattr(threading, "events_of_the_test", (started, go_on), raising=False)
    (tmp_path / f"{module}.py").write_text(
        "import threading\nstarted, go_on = threading.events_of_the_test\nstarted.set()\ngo_on.wait()\nvalue = 1\n"
    )
    thread = threading.Thread(target=importlib.import_module, args=(module,))
    thread.start()
    assert started.wait(10)
    threading.Timer(0.1, go_on.set).start()
    call_after_import(module, lambda: seen.append(sys.modules[module].value))
    thread.join()
    assert seen == [1]
