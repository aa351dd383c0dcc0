"""The Grafana dashboard shows the metrics that there are, and Grafana can read it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmeta.runtime.ray.prometheus import MEASURES, exported_name

FOLDER = Path(__file__).parents[2] / "cluster" / "grafana"
BOARD: dict[str, Any] = json.loads((FOLDER / "dmeta.json").read_text())
EXPRESSIONS = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]


def test_every_metric_is_shown_and_every_one_shown_is_there() -> None:
    shown = set(re.findall(r"ray_dmeta_\w+", json.dumps(BOARD)))
    histograms = {
        name for name, measure in MEASURES.items() if measure.kind in ("seconds", "steps")
    }
    names = {exported_name(n) + ("_bucket" if n in histograms else "") for n in MEASURES}
    assert shown == names


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_is_of_the_chosen_runs_and_whole(expression: str) -> None:
    series = re.findall(r"ray_dmeta_\w+(.{,13})", expression)
    assert set(series) == {'{run=~"$run"}'}
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)
    assert "rate(" in expression or "_total" not in expression
    assert ("_bucket" in expression) == ("histogram_quantile(0." in expression)


def test_panels_have_their_own_numbers_and_places() -> None:
    panels = BOARD["panels"]
    assert BOARD["schemaVersion"] >= 36
    assert BOARD["uid"] == "dmeta"
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"]
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


def test_the_data_source_and_the_run_are_chosen_by_variables() -> None:
    variables = {each["name"]: each for each in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["run"]["query"]["query"] == "label_values(ray_dmeta_step, run)"
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps(BOARD["panels"]) + json.dumps(variables))
    assert set(sources) == {"${datasource}"}


def test_the_yaml_files_are_what_their_programs_read() -> None:
    (provider,) = yaml.safe_load((FOLDER / "provisioning.yaml").read_text())["providers"]
    assert (provider["type"], provider["name"]) == ("file", "dmeta")
    assert Path(provider["options"]["path"]).is_absolute()
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["file_sd_configs"][0]["files"][0].endswith("prom_metrics_service_discovery.json")
