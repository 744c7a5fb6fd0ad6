"""`--push_to_hub`: a run evaluates and publishes itself while it trains, one tag `epoch-N` for each state."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_ssl.data.sources import open_source
from hf_ssl.evaluation.probe_arguments import ProbeArguments
from hf_ssl.evaluation.probe_run import DataArguments, probe_run
from hf_ssl.evaluation.results import find_result, read_results, write_results
from hf_ssl.hub.publish.client import HubError, call_hub, open_hub
from hf_ssl.hub.publish.publish import Published, check_published_by_us, publish
from hf_ssl.hub.repository.layout import WEIGHTS
from hf_ssl.training.arguments import PretrainArguments

PUBLISHED = "published.json"


class TrainingPublisher:
    """What `pretrain` calls with the run as it stands.

    A state of the middle that cannot be published is kept with a word on how to publish it later, and the training
    goes on; the last state raises, when the run lies complete in its folder.

    Args:
        arguments: of the run; `push_to_hub` names the repository.
        report: called with lines of text.

    Raises:
        ValueError: the name is not allowed, or the data has no class names to evaluate with.
        PermissionError, FileExistsError, HubError: as `publish`; before any time was spent on training.
    """

    def __init__(self, arguments: PretrainArguments, report: Callable[[str], None] = print):
        self.arguments = arguments
        self.run = Path(arguments.output_dir)
        self.report = report
        api = open_hub(arguments.push_to_hub)
        head = check_published_by_us(api, arguments.push_to_hub, arguments.push_private)
        if arguments.resume_from_checkpoint is None and (self.run / PUBLISHED).exists():
            raise FileExistsError(
                f"'{self.run / PUBLISHED}' is of another run; remove it, or choose another --output_dir."
            )
        if head is not None and arguments.resume_from_checkpoint is None:
            refs = call_hub("list its tags", lambda: api.list_repo_refs(arguments.push_to_hub))
            taken = sorted(ref.name for ref in refs.tags if ref.name.startswith("epoch-"))
            if taken:
                raise FileExistsError(
                    f"{arguments.push_to_hub} has the tag '{taken[0]}' of another run; choose another repository, or "
                    "continue that run with --resume_from_checkpoint latest."
                )
        for split in (arguments.train_split, arguments.eval_split):
            source = open_source(
                arguments.dataset,
                split=split,
                image_column=arguments.image_column,
                label_column=arguments.label_column,
                num_rows=arguments.num_train_images if split == arguments.train_split else None,
            )
            if source.class_names is None:
                raise ValueError(
                    f"The split '{split}' of '{arguments.dataset}' names no classes, which --push_to_hub evaluates "
                    "with; set --label_column to a column of class labels, or leave --push_to_hub out."
                )

    def __call__(self, folder: Path) -> None:
        """Evaluate and publish a folder of the run: the run itself at its end, a snapshot of it before."""
        is_snapshot = folder != self.run
        later = ["hf-ssl", "publish", str(folder), "--repo_id", self.arguments.push_to_hub]
        later += ["--private"] if self.arguments.push_private else []
        try:
            steps = read_results(folder / "results.json")["pretraining"]["steps"]
            earlier = [entry for entry in self._published() if entry["steps"] < steps]
            if any(entry["steps"] == steps for entry in self._published()):
                self.report(f"{folder} was published before.")
                return
            results = probe_run(
                folder,
                # The pixels do not change while a run goes on: the last state has them.
                DataArguments(mixed_precision=self.arguments.mixed_precision, raw_pixels=not is_snapshot),
                ProbeArguments(),
                shlex.join(["hf-ssl", "evaluate", str(folder), "--mixed_precision", self.arguments.mixed_precision]),
                self.report,
            )
            entry = describe_checkpoint(results)
            later += ["--tag", entry["tag"]]
            results["checkpoints"] = [*earlier, entry]
            write_results(folder / "results.json", results)
            published = publish(
                folder,
                self.arguments.push_to_hub,
                tag=entry["tag"],
                private=self.arguments.push_private,
                message=f"{entry['tag']}: {entry['accuracy']:.1%} by linear probe",
                report=self.report,
            )
        # Whatever it is, it must not end the training that it comes from.
        except Exception as error:
            advice = f"publish it later with `{shlex.join(later)}`"
            if not is_snapshot:
                raise HubError(f"{error} The run is complete in {folder}; {advice}.") from error
            self.report(f"warning: {error} The training goes on; {folder} is kept, {advice}.")
            return
        self._remember([*earlier, entry], published)
        if is_snapshot:
            for name in (*WEIGHTS, "probe.safetensors"):
                (folder / name).unlink(missing_ok=True)
        self.report(f"published {published.url} at the tag {published.tag}")

    def _published(self) -> list[dict[str, Any]]:
        path = self.run / PUBLISHED
        if not path.exists():
            return []
        known = json.loads(path.read_text(encoding="utf-8"))
        return known["checkpoints"] if known["repo_id"] == self.arguments.push_to_hub else []

    def _remember(self, checkpoints: list[dict[str, Any]], published: Published) -> None:
        text = json.dumps({"repo_id": published.repo_id, "checkpoints": checkpoints}, indent=2)
        (self.run / PUBLISHED).write_text(text + "\n", encoding="utf-8")


def describe_checkpoint(results: dict[str, Any]) -> dict[str, Any]:
    """The entry of results.json's `checkpoints` for an evaluated state of a run."""
    pretraining, row = results["pretraining"], find_result(results, "pretrained")
    return {
        "tag": f"epoch-{round(pretraining['epochs'], 2):g}",
        **{name: pretraining[name] for name in ("epochs", "steps", "images_seen")},
        **{name: row[name] for name in ("accuracy", "accuracy_ci95", "top5_accuracy", "macro_f1")},
    }
