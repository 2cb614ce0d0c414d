"""The report in a real browser: nothing overflows, nothing is logged, nothing is fetched."""

import html
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qanchor.charts.tuning_curves import step_chart
from qanchor.explain.attention_shift import attention_shift
from qanchor.explain.tuning import TuningExplanation
from qanchor.heads.train import train_head
from qanchor.model.attention import PROMPT, QUERY, USER, QueryAttention
from qanchor.progress import Silent
from qanchor.report.files import write_report
from qanchor.report.summary import ReportSummary, summarise
from tests.unit.heads.fakes import FAST, SCENARIO, add_manifest, small_world

pytestmark = pytest.mark.integration

_BROWSER = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
# A frame is as narrow as one asks, a window is not; the probe runs outside the page that it looks at.
_HARNESS = """<!doctype html>
<iframe id="page" style="width:{width}px;height:900px;border:0" srcdoc="{text}"></iframe>
<script>
document.getElementById("page").addEventListener("load", (event) => {{
  const view = event.target.contentWindow, root = view.document.documentElement;
  const wide = [...view.document.body.querySelectorAll("*")].filter((node) =>
    !node.closest(".scroll, .inner, .jump") && node.getBoundingClientRect().right > root.clientWidth + 1);
  const probe = document.createElement("pre");
  probe.id = "probe";
  probe.textContent = [view.innerWidth, root.scrollWidth - root.clientWidth, wide.length,
    view.performance.getEntriesByType("resource").length,
    view.getComputedStyle(view.document.body).backgroundColor].join(";");
  document.body.replaceChildren(probe);
}});
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    world = small_world(folder)
    add_manifest(world)
    train_head(world.site, SCENARIO, FAST, Silent())
    (world.site.home.labels / "ceilings.json").write_text('{"risk": 0.97}')
    summary = summarise(world.site, [SCENARIO], Silent())
    write_report(with_everything(summary), folder / "report.html")
    return folder / "report.html"


def with_everything(summary: ReportSummary) -> ReportSummary:
    """The scenario twice, under long names, with attention, tuning curves, warnings and a flagged segment."""
    (one,) = summary.scenarios
    groups = (USER, "mini_program_of_a_long_name", "bill", PROMPT, QUERY)
    mass = np.random.default_rng(0).dirichlet(np.ones(5), (2, 2, 30))
    base, tuned = (QueryAttention(groups, side) for side in mass)
    shift = attention_shift(base, tuned)
    steps = step_chart({"valid_auc_by_step": [[0, 0.6], [20, 0.7]], "best_step": 20})
    segments = [{**one.card.segments[0], "value": "x" * 40, "flags": ["ranks worse", "scored too high"]}]
    full = replace(
        one,
        card=one.card.model_copy(
            update={"scenario": "a_scenario_of_a_name_as_long_as_they_get", "segments": segments}
        ),
        tuning=(tuning := TuningExplanation(shift, None, one.tuning_charts)),
        tuning_absent="The model cannot be read: run `qanchor-cli pretrain` first.",
        tuning_charts=tuning.charts,
        curves=replace(one.curves, steps=steps),
        warnings=("The labels have changed since this head was trained.",),
    )
    return replace(summary, scenarios=(one, full))


def opened(page: Path, width: int, folder: Path, *flags: str) -> tuple[list[str], str]:
    """What the probe saw in a frame of that width, and what the browser logged."""
    assert _BROWSER is not None
    harness = folder / f"harness_{width}.html"
    harness.write_text(_HARNESS.format(width=width, text=html.escape(page.read_text())))
    command = [
        _BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1500,900",
        *flags,
        "--dump-dom",
        harness.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    probe = done.stdout.split('<pre id="probe">')[-1].split("</pre>")[0]
    return probe.split(";"), done.stderr


@pytest.mark.skipif(_BROWSER is None, reason="no Chromium here: the page's layout is not checked")
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_the_page_neither_overflows_nor_fails_nor_fetches(page: Path, tmp_path: Path, width: int) -> None:
    (inner, overflow, wide, fetched, _), log = opened(page, width, tmp_path)
    assert (int(inner), overflow, wide, fetched) == (width, "0", "0", "0")
    assert "CONSOLE" not in log


@pytest.mark.skipif(_BROWSER is None, reason="no Chromium here: the dark theme is not checked")
def test_the_page_follows_the_theme_of_the_system(page: Path, tmp_path: Path) -> None:
    light, _ = opened(page, 800, tmp_path, "--blink-settings=preferredColorScheme=1")
    dark, _ = opened(page, 801, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert (light[4], dark[4]) == ("rgb(247, 247, 248)", "rgb(15, 17, 20)")
