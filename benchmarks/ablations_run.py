"""One ablation measured and kept: pre-train or tune with a changed setting, embed, probe."""

import json
import re
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.quality_world import Rows, label_rows, vocabulary
from qanchor.events.history import EventArrays, Int64, arrays_from_table
from qanchor.events.label_rows import LABEL_SCHEMA
from qanchor.events.labels import Labels, earliest_cutoff, holdout_users
from qanchor.home import Home
from qanchor.metrics import ks, roc_auc
from qanchor.model.checkpoint import LoadedModel, load_model, save_model
from qanchor.model.nested import narrowed
from qanchor.model.runtime import choose_runtime
from qanchor.names import SPLITS
from qanchor.progress import Silent
from qanchor.training.prefixes import PrefixBank
from qanchor.training.pretrain import PretrainConfig, Visible, pretrain
from qanchor.training.record import Tuning, choose_until, tune_scenarios
from qanchor.training.tune import TuneConfig
from qanchor.workspace import load_workspace

Floats = NDArray[np.float32]
WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class Measured:
    """What one ablation reached.

    Args:
        name: of the ablation.
        scenarios: figures of each scenario.
        seconds: it took.
        settings: that it was run with.
    """

    name: str
    scenarios: dict[str, dict[str, float]]
    seconds: float
    settings: dict[str, Any]

    @property
    def means(self) -> dict[str, float]:
        """Each figure's mean over the scenarios."""
        keys = next(iter(self.scenarios.values()))
        return {key: float(np.mean([row[key] for row in self.scenarios.values()])) for key in keys}


def differences(own: Measured, base: Measured) -> tuple[float, float]:
    """Mean difference in AUC over the scenarios that both were measured on, and its standard error."""
    both = [name for name in own.scenarios if name in base.scenarios]
    gaps = np.array([own.scenarios[name]["auc"] - base.scenarios[name]["auc"] for name in both])
    return float(gaps.mean()), float(gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else 0.0


class Run:
    """Ablations on one world; what was measured before is not measured again.

    Args:
        world: folder with events.parquet and labels/.
        repo: its feature repository.
        kept: folder of what was measured, and of the models that prompts are tuned on.
        seed: of everything.
        tuned: scenarios that tuning is measured on, spread over the domains.
    """

    def __init__(self, world: Path, repo: Path, kept: Path, seed: int, tuned: int) -> None:
        self._world, self._kept, self._seed = world, kept, seed
        self._workspace = load_workspace(repo)
        self._home = Home(world)
        names = [n for n in self._workspace.scenarios if (self._home.labels / f"{n}.parquet").exists()]
        self._names = names
        self._tuned = names[:: max(1, len(names) // tuned)][:tuned]
        kept.mkdir(parents=True, exist_ok=True)

    def pretrained(self, name: str, config: PretrainConfig, narrow: bool = False) -> None:
        """Measure a model that is pre-trained so, untuned; `narrow`: its vectors' first numbers, too."""
        if self._is_done(name, asdict(config)):
            return
        began = time.monotonic()
        loaded = self._model(name, config)
        rows = {}
        for scenario, vectors in self._embedded(loaded, self._names):
            rows[scenario] = self._figures(vectors, scenario)
            if narrow:
                rows[scenario] |= self._narrow(vectors, scenario)
            rows[scenario]["zero-label"] = self._by_words(loaded, vectors, scenario)
        self._keep(Measured(name, rows, round(time.monotonic() - began, 1), asdict(config)))

    def tuned(self, name: str, model: str, before: PretrainConfig, config: TuneConfig) -> None:
        """Measure prompts that are tuned so, on a pre-trained model."""
        if self._is_done(name, asdict(config)):
            return
        loaded = self._model(model, before)
        began = time.monotonic()
        labels = [self._labels(scenario) for scenario in self._tuned]
        tuning = Tuning(loaded, self._workspace, config)
        prompts = tune_scenarios(tuning, self._arrays, labels, Silent())
        rows = {}
        for scenario, vectors in self._embedded(loaded, self._tuned, prompts):
            rows[scenario] = self._figures(vectors, scenario)
        self._keep(Measured(name, rows, round(time.monotonic() - began, 1), asdict(config)))

    def measured(self) -> dict[str, Measured]:
        """All that was measured with this folder, by name."""
        files = sorted(self._kept.glob("*.json"))
        return {row.name: row for row in (Measured(**json.loads(path.read_text())) for path in files)}

    def _is_done(self, name: str, settings: dict[str, Any]) -> bool:
        path = self._file(name)
        return path.exists() and json.loads(path.read_text())["settings"] == json.loads(json.dumps(settings))

    def _keep(self, measured: Measured) -> None:
        self._file(measured.name).write_text(json.dumps(asdict(measured), indent=1) + "\n")
        print(f"{measured.name}: AUC {measured.means['auc']:.4f}, {measured.seconds} s", flush=True)

    def _file(self, name: str) -> Path:
        return self._kept / f"{re.sub('[^a-z0-9]+', '-', name)}.json"

    def _model(self, name: str, config: PretrainConfig) -> LoadedModel:
        """The model of an ablation, trained once; untrained where there are no steps."""
        folder = self._file(name).with_suffix(".model")
        stored = folder / "settings.json"
        settings = json.dumps(asdict(config))
        if stored.exists() and stored.read_text() == settings:
            return load_model(folder / "model", "cpu", "float32")
        limits = Visible(
            choose_until(None, earliest_cutoff(self._home)), frozenset(holdout_users(self._home))
        )
        # Without steps the learning rate is zero: one step is the least that a run makes.
        made = config if config.steps else replace(config, steps=1, learning_rate=0.0)
        result = pretrain(self._arrays, self._workspace, made, limits, Silent())
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        save_model(folder / "model", result.model, result.tokenizer, result.normaliser, {})
        stored.write_text(settings)
        parts = result.model.requires_grad_(False), result.tokenizer, result.normaliser
        return LoadedModel(*parts, result.model.config, {}, "", choose_runtime("cpu", "float32"))

    def _embedded(
        self, loaded: LoadedModel, scenarios: list[str], prompts: dict[str, Any] | None = None
    ) -> list[tuple[str, Floats]]:
        """Vectors of every label row of some scenarios; rows that they share are encoded once."""
        parts, kept = (loaded.model, loaded.tokenizer, loaded.normaliser), b""
        bank = PrefixBank(*parts, self._workspace, torch.float16)
        result = []
        for scenario in scenarios:
            every, _ = self._rows(scenario)
            key = every.rows.tobytes() + every.cutoffs.tobytes()
            if key != kept:
                bank.fill(self._arrays, every.rows, every.cutoffs, Silent())
                kept = key
            query = self._workspace.scenario(scenario).query
            question = loaded.tokenizer.encode_questions([query], loaded.config.max_question_tokens)[0]
            prompt = prompts[scenario].vectors if prompts else None
            result.append((scenario, bank.vectors(question, prompt, np.arange(len(every.rows)))))
        return result

    def _figures(self, vectors: Floats, scenario: str) -> dict[str, float]:
        """Test AUC and KS of a linear probe."""
        from qanchor.linear_probe import ProbeRows, fit_probe

        every, bounds = self._rows(scenario)
        train, valid, test = np.split(vectors, bounds)
        ones = np.split(every.labels, bounds)
        scores = fit_probe(ProbeRows(train, ones[0], valid, ones[1])).predict(test)
        return {"auc": float(roc_auc(ones[2], scores)), "ks": float(ks(ones[2], scores).statistic)}

    def _narrow(self, vectors: Floats, scenario: str) -> dict[str, float]:
        widths = [width for width in WIDTHS if width < vectors.shape[1]]
        found = {f"width {w}": self._figures(narrowed(vectors, w), scenario)["auc"] for w in widths}
        return found | {f"width {vectors.shape[1]}": self._figures(vectors, scenario)["auc"]}

    def _by_words(self, loaded: LoadedModel, vectors: Floats, scenario: str) -> float:
        from qanchor.audience.zero_label import read_answers

        every, bounds = self._rows(scenario)
        scorer = read_answers(loaded, self._workspace, scenario, self._vocabulary)
        return scorer.auc(np.split(vectors, bounds)[2], np.split(every.labels, bounds)[2])

    def _labels(self, scenario: str) -> Labels:
        table = pq.read_table(self._home.labels / f"{scenario}.parquet", schema=LABEL_SCHEMA)
        return Labels(scenario, table)

    def _rows(self, scenario: str) -> tuple[Rows, Int64]:
        """All label rows in the order train, valid, test, and where one part ends and the next begins."""
        some = self._labels(scenario)
        return label_rows(self._arrays, [some.part(part) for part in SPLITS])

    @cached_property
    def _arrays(self) -> EventArrays:
        return arrays_from_table(pq.read_table(self._world / "events.parquet"), self._workspace)

    @cached_property
    def _vocabulary(self) -> Counter[str]:
        return vocabulary(self._arrays)
