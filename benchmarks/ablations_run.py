"""One ablation, measured and stored: pre-train or tune with a changed setting, embed, probe."""

import json
import re
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.quality_world import Rows, label_rows, vocabulary
from qanchor.events.history import EventArrays, Int64, arrays_from_table
from qanchor.events.label_rows import LABEL_SCHEMA
from qanchor.events.labels import Labels, earliest_cutoff, holdout_users
from qanchor.home import Home
from qanchor.linear_probe import ProbeRows, fit_probe
from qanchor.metrics import ks, roc_auc
from qanchor.model.checkpoint import LoadedModel, load_model, save_model
from qanchor.model.runtime import choose_runtime
from qanchor.model.space import narrowed
from qanchor.names import SPLITS
from qanchor.progress import Silent
from qanchor.training.prefixes import PrefixBank
from qanchor.training.pretrain import PretrainConfig, Visible, train_model
from qanchor.training.tune import LabelledRequests, TuneConfig, TuneTask, tune_prompt
from qanchor.training.tune_scenarios import choose_rows
from qanchor.training.use_cases import choose_until
from qanchor.workspace import load_workspace

Floats = NDArray[np.float32]
WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class Measured:
    """Results of one ablation.

    Args:
        name: name of the ablation.
        scenarios: figures by scenario.
        seconds: wall-clock time.
        settings: settings of the run.
        scores: scores of the test rows by the linear probe, by scenario.
        labels: labels of the same rows.
    """

    name: str
    scenarios: dict[str, dict[str, float]]
    seconds: float
    settings: dict[str, Any]
    scores: dict[str, list[float]]
    labels: dict[str, list[int]]

    @property
    def means(self) -> dict[str, float]:
        """Each figure's mean over the scenarios."""
        keys = next(iter(self.scenarios.values()))
        return {key: float(np.mean([row[key] for row in self.scenarios.values()])) for key in keys}


@dataclass
class _Results:
    """Figures, and the probe's scores and labels of the test rows, by scenario."""

    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    labels: dict[str, list[int]] = field(default_factory=dict)


class Run:
    """Ablations on one world; stored results are not measured again.

    Args:
        world: folder with events.parquet and labels/.
        repo: feature repository of the world.
        kept: folder of the results, and of the models that prompts are tuned on.
        tuned: number of scenarios with tuning, spread over the domains.
        train_rows: largest number of a scenario's training rows for prompts and probes.
    """

    def __init__(self, world: Path, repo: Path, kept: Path, tuned: int, train_rows: int) -> None:
        self._world, self._kept, self._train_rows = world, kept, train_rows
        self._workspace = load_workspace(repo)
        self._home = Home(world)
        names = [n for n in self._workspace.scenarios if (self._home.labels / f"{n}.parquet").exists()]
        self._names = names
        self._held: tuple[str, LoadedModel, PrefixBank] | None = None
        self._tuned = names[:: max(1, len(names) // tuned)][:tuned]
        kept.mkdir(parents=True, exist_ok=True)

    def pretrained(self, name: str, config: PretrainConfig, narrow: bool = False) -> None:
        """Measure a pre-trained model, untuned; `narrow`: also the first numbers of its vectors."""
        if self._is_done(name, asdict(config)):
            return
        began = time.monotonic()
        loaded, bank = self._model(name, config)
        results = _Results()
        for scenario in self._names:
            vectors = bank.vectors(*self._query(loaded, scenario, None))
            self._probe(vectors, scenario, results)
            if narrow:
                results.figures[scenario] |= self._narrow(vectors, scenario)
            results.figures[scenario]["zero-label"] = self._by_words(loaded, vectors, scenario)
        self._keep(name, results, time.monotonic() - began, asdict(config))

    def tuned(self, name: str, model: str, before: PretrainConfig, config: TuneConfig) -> None:
        """Measure tuned prompts on a pre-trained model."""
        if self._is_done(name, asdict(config)):
            return
        loaded, bank = self._model(model, before)
        began, results = time.monotonic(), _Results()
        for scenario in self._tuned:
            every, bounds = self._rows(scenario)
            query, _, indices = self._query(loaded, scenario, None)
            parts = zip(np.split(indices, bounds), np.split(every.labels, bounds), strict=True)
            train, valid, _ = (LabelledRequests(*part) for part in parts)
            kept = choose_rows(train.requests, train.labels, config.most_rows, config.seed)
            train = LabelledRequests(train.requests[kept], train.labels[kept])
            prompt = tune_prompt(
                TuneTask(scenario, query, train, valid), loaded.model, bank, config, Silent()
            )
            vectors = bank.vectors(*self._query(loaded, scenario, prompt.vectors))
            self._probe(vectors, scenario, results)
        self._keep(name, results, time.monotonic() - began, asdict(config))

    def measured(self) -> dict[str, Measured]:
        """All stored results, by name."""
        files = sorted(self._kept.glob("*.json"))
        return {row.name: row for row in (Measured(**json.loads(path.read_text())) for path in files)}

    def _is_done(self, name: str, settings: dict[str, Any]) -> bool:
        path = self._file(name)
        return path.exists() and json.loads(path.read_text())["settings"] == json.loads(json.dumps(settings))

    def _keep(self, name: str, results: "_Results", seconds: float, settings: dict[str, Any]) -> None:
        measured = Measured(
            name, results.figures, round(seconds, 1), settings, results.scores, results.labels
        )
        self._file(name).write_text(json.dumps(asdict(measured)) + "\n")
        print(f"{name}: AUC {measured.means['auc']:.4f}, {measured.seconds} s", flush=True)

    def _file(self, name: str) -> Path:
        return self._kept / f"{re.sub('[^a-z0-9]+', '-', name)}.json"

    def _model(self, name: str, config: PretrainConfig) -> tuple[LoadedModel, PrefixBank]:
        """The model of an ablation, trained once, and the prefixes of all label rows."""
        settings = json.dumps(asdict(config))
        if self._held is None or self._held[0] != settings:
            self._held = None  # frees the earlier prefixes first
            loaded = self._trained(name, config, settings)
            self._held = settings, loaded, self._encoded(loaded)
        return self._held[1:]

    def _trained(self, name: str, config: PretrainConfig, settings: str) -> LoadedModel:
        """The stored model, or a new one; untrained where there are no steps."""
        folder = self._file(name).with_suffix(".model")
        stored = folder / "settings.json"
        if stored.exists() and stored.read_text() == settings:
            return load_model(folder / "model", "cpu", "float32")
        visible = Visible(
            choose_until(None, earliest_cutoff(self._home)), frozenset(holdout_users(self._home))
        )
        # A run makes at least one step: without steps its learning rate is zero.
        made = config if config.steps else replace(config, steps=1, learning_rate=0.0)
        result = train_model(self._arrays, self._workspace, made, visible, Silent())
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        save_model(folder / "model", result.model, result.tokenizer, result.normaliser, {})
        stored.write_text(settings)
        parts = result.model.requires_grad_(False), result.tokenizer, result.normaliser
        return LoadedModel(*parts, result.model.config, {}, "", choose_runtime("cpu", "float32"))

    def _encoded(self, loaded: LoadedModel) -> PrefixBank:
        """The prefixes of all label rows, each user at a cut-off once."""
        bank = PrefixBank(loaded.model, loaded.tokenizer, loaded.normaliser, self._workspace, torch.float16)
        bank.fill(self._arrays, self._pairs[:, 0].copy(), self._pairs[:, 1].copy(), Silent())
        return bank

    @cached_property
    def _pairs(self) -> Int64:
        """The distinct (user row, cut-off) of all label rows, int64 [pairs, 2]."""
        every = [self._rows(scenario)[0] for scenario in self._names]
        pairs = [np.stack([rows.rows, rows.cutoffs], axis=1) for rows in every]
        return np.unique(np.concatenate(pairs), axis=0)

    def _pair_indices(self, scenario: str) -> Int64:
        """Indices of the scenario's label rows among all pairs."""
        rows = self._rows(scenario)[0]
        index = {pair: at for at, pair in enumerate(map(tuple, self._pairs.tolist()))}
        return np.array([index[pair] for pair in zip(rows.rows.tolist(), rows.cutoffs.tolist(), strict=True)])

    def _query(
        self, loaded: LoadedModel, scenario: str, prompt: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Int64]:
        """A bank's arguments for a scenario's vectors: query tokens, soft prompt, indices of the pairs."""
        text = self._workspace.scenario(scenario).query
        query = loaded.tokenizer.encode_queries([text], loaded.config.max_question_tokens)[0]
        return query, prompt, self._pair_indices(scenario)

    def _probe(self, vectors: Floats, scenario: str, results: "_Results") -> None:
        """Test AUC and KS of a linear probe, and its scores."""
        scores, labels = self._scores(vectors, scenario)
        results.figures[scenario] = {
            "auc": float(roc_auc(labels, scores)),
            "ks": float(ks(labels, scores).statistic),
        }
        results.scores[scenario], results.labels[scenario] = scores.tolist(), labels.tolist()

    def _scores(self, vectors: Floats, scenario: str) -> tuple[NDArray[np.float64], Int64]:
        every, bounds = self._rows(scenario)
        train, valid, test = np.split(vectors, bounds)
        ones = np.split(every.labels, bounds)
        probe = fit_probe(ProbeRows(train, ones[0], valid, ones[1]))
        return probe.predict(test), ones[2]

    def _narrow(self, vectors: Floats, scenario: str) -> dict[str, float]:
        widths = [width for width in WIDTHS if width < vectors.shape[1]]
        cut = {width: narrowed(vectors, width) for width in (*widths, vectors.shape[1])}
        scores = {width: self._scores(some, scenario) for width, some in cut.items()}
        return {f"width {width}": float(roc_auc(ones, some)) for width, (some, ones) in scores.items()}

    def _by_words(self, loaded: LoadedModel, vectors: Floats, scenario: str) -> float:
        from qanchor.audience.zero_label import read_answers

        every, bounds = self._rows(scenario)
        scorer = read_answers(loaded, self._workspace, scenario, self._vocabulary)
        return scorer.auc(np.split(vectors, bounds)[2], np.split(every.labels, bounds)[2])

    def _labels(self, scenario: str) -> Labels:
        table = pq.read_table(self._home.labels / f"{scenario}.parquet", schema=LABEL_SCHEMA)
        return Labels(scenario, table)

    def _rows(self, scenario: str) -> tuple[Rows, Int64]:
        """All label rows in the order train, valid, test, and the boundaries of the parts."""
        some = self._labels(scenario)
        train, *others = (some.part(part) for part in SPLITS)
        # The same positions in every scenario: their rows are mostly of the same users and cut-offs.
        kept = np.linspace(0, len(train) - 1, min(len(train), self._train_rows)).astype(np.int64)
        return label_rows(self._arrays, [train.take(kept), *others])

    @cached_property
    def _arrays(self) -> EventArrays:
        return arrays_from_table(pq.read_table(self._world / "events.parquet"), self._workspace)

    @cached_property
    def _vocabulary(self) -> Counter[str]:
        return vocabulary(self._arrays)
