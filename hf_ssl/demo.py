"""`hf-ssl demo`: the whole journey in five minutes on two CPU cores, on the embedded data set.

Pretrain SimCLR and MAE with small encoders, probe them beside random ones, compare, write both as Hub repository
folders, and classify an image with one of these through a plain transformers pipeline.
"""

import io
import shlex
import shutil
import time
from pathlib import Path

from PIL import Image

from hf_ssl.data import open_source
from hf_ssl.evaluation.compare import compare, read_runs
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.probe_run import DataArguments, probe_run
from hf_ssl.evaluation.report import write_report
from hf_ssl.hub.repository.assemble import assemble_repository
from hf_ssl.training.arguments import parse_pretrain
from hf_ssl.training.loop import pretrain

RECIPES = ("simclr_demo", "mae_demo")
MARKER = ".hf-ssl-demo"


def demo(output: Path, command: str, max_steps: int | None = None) -> None:
    """Run the demo in `output`, replacing an earlier demo there; `max_steps` stops each pretraining early.

    Raises:
        FileExistsError: if the folder holds something that no demo made.
    """
    start = time.perf_counter()
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise FileExistsError(f"'{output}' is not empty and not a demo's; choose another folder with --output.")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()

    runs = []
    for recipe in RECIPES:
        argv = ["--config", recipe, "--output_dir", str(output / "runs" / recipe)]
        argv += ["--max_steps", str(max_steps)] if max_steps is not None else []
        print(f"\n$ hf-ssl pretrain {shlex.join(argv)}", flush=True)
        run = pretrain(*parse_pretrain(argv), f"hf-ssl pretrain {shlex.join(argv)}")
        evaluation = shlex.join(["hf-ssl", "evaluate", str(run), "--mixed_precision", "bf16"])
        print(f"\n$ {evaluation}", flush=True)
        probe_run(run, DataArguments(mixed_precision="bf16"), ProbeArguments(), evaluation)
        runs.append(run)

    report = write_report(runs, output / "report", "hf_ssl demo", command)
    print(f"\n{compare(read_runs(runs))}\n")
    repositories = [
        assemble_repository(run, output / "repositories" / recipe.replace("_", "-"))
        for run, recipe in zip(runs, RECIPES, strict=True)
    ]
    _classify(repositories[0], output)
    print(f"\nReport: {report}\nRepositories: {', '.join(map(str, repositories))}")
    print(f"The demo took {time.perf_counter() - start:.0f} s.")


def _classify(repository: Path, output: Path) -> None:
    """Show that plain transformers opens the repository: classify a validation image."""
    from transformers import pipeline

    source = open_source("embedded", split="validation")
    row = source.dataset[0]
    picture = output / "example.jpg"
    Image.open(io.BytesIO(row["image"]["bytes"])).save(picture)
    predictions = pipeline("image-classification", model=str(repository))(str(picture), top_k=3)
    print(f'pipeline("image-classification", model="{repository}")("{picture}")')
    for prediction in predictions:
        print(f"  {prediction['score']:.1%}  {prediction['label']}")
    print(f"  (the label is {source.class_names[row['label']]})")
