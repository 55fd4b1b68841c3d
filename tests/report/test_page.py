"""The report page: every section optional, nothing unescaped, nothing fetched, rendered by a real browser."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.base.ragged import Ragged
from recsys.evaluation.attribution import FunnelTrace, funnel_metrics
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.gates import GateLevel, gate_report
from recsys.evaluation.guards import embeddings_collapsed, summary
from recsys.evaluation.slices import history_buckets, row_slices
from recsys.evaluation.summary import ranking_metrics, retrieval_metrics
from recsys.evaluation.uncertainty.compare import TaskRows, compare
from recsys.report.page import evaluation_page

SECTIONS = ("findings", "funnel", "retrieval", "similar", "index", "ranking", "gates", "slices", "comparisons",
            "off_policy", "examples", "data", "config")  # fmt: skip


def gates(rng: np.random.Generator) -> dict[str, Any]:
    """Two levels after three epochs; the second hides the other task's experts, and `like` leaves one unused."""
    names = ("click 0", "click 1", "like 0", "like 1", "shared 0", "shared 1")
    reports = []
    for epoch in (1, 2, 3):
        levels = []
        for seen in (((0, 1, 2, 3, 4, 5),) * 2, ((0, 1, 4, 5), (2, 3, 4, 5))):
            weights = np.zeros((50, 2, 6))
            for stream, places in enumerate(seen):
                weights[:, stream, list(places)] = rng.dirichlet(np.ones(len(places)) * epoch, 50)
            weights[:, 1, 4] += weights[:, 1, 5]
            weights[:, 1, 5] = 0.0
            outputs = np.maximum(rng.normal(size=(50, 6, 8)), 0)
            levels.append(
                GateLevel(streams=("click", "like"), experts=names, weights=weights, outputs=outputs, visible=seen)
            )
        reports.append({"epoch": epoch, **gate_report(levels)})
    return {**reports[-1], "epochs": reports}


def full_report() -> dict[str, Any]:
    """A report with every section, from the harness itself."""
    rng = np.random.default_rng(0)
    users, items, config = 80, 60, EvaluationConfig(ks=(10, 30), draws=40)
    taste = rng.normal(size=(users, items))
    truth = Ragged.from_lists([np.argsort(-taste[u])[:3] for u in range(users)])
    found = {
        name: np.argsort(-(taste + noise * rng.normal(size=taste.shape)), axis=1)[:, :30]
        for name, noise in (("two_tower", 0.7), ("item_knn", 1.2), ("popularity", 9.0))
    }
    scored = np.take_along_axis(taste, found["two_tower"], 1) + rng.normal(size=(users, 30))
    order = np.argsort(-scored, axis=1)
    trace = FunnelTrace(
        truth=truth,
        retrieved={name: found[name] for name in ("two_tower", "item_knn")},
        ann={"two_tower": np.where(rng.random((users, 30)) < 0.05, -1, found["two_tower"])},
        candidates=found["two_tower"],
        scores=scored,
        final=np.take_along_axis(found["two_tower"], order, 1)[:, :10],
        filters=True,
        rules=True,
    )
    rows, p = rng.integers(0, users, 3000), rng.beta(2, 5, 3000)
    label = (rng.random(3000) < p).astype(float)
    tasks = {
        task: ranking_metrics(label, p**power, rows, config=config) for task, power in (("click", 1), ("like", 1.4))
    }
    tasks["like"]["reliability_before"] = ranking_metrics(label, p**2, rows, config=config)["reliability"]
    lengths = history_buckets(rng.integers(0, 90, users))[rows]
    return {
        "similar": {"requests": users, "sources": {"mixed": {"recall@10": 0.2, "recall@10_ci": [0.1, 0.3]}}},
        "title": "Offline evaluation of runs/latest",
        "protocol": {"split": "leave_last", "users": users, "items": items, "filter_seen": True, "ranking": "full"},
        "findings": summary(embeddings_collapsed(np.ones((4, 2)))),
        "funnel": funnel_metrics(trace, num_items=items, config=config),
        "retrieval": {
            name: retrieval_metrics(one, truth, num_items=items, config=config) for name, one in found.items()
        },
        "index": {
            "factory": "HNSW32",
            "ann_recall@100": 0.991,
            "p50_ms": 0.21,
            "curve": [
                {"label": f"efSearch={16 * 2**i}", "recall": 1 - 0.12 / 2**i, "p50_ms": 0.05 * 1.6**i} for i in range(6)
            ],
        },
        "ranking": tasks,
        "gates": gates(rng),
        "slices": [one.to_json() for one in row_slices(label, p, rows, {"history_length": lengths}, config)],
        "comparisons": [one.to_json() for one in compare(None, {"click": TaskRows(label, p, p**2, rows)}, config)],
        "off_policy": {"ips": 0.31, "ips_ci": [0.28, 0.35], "snips": 0.3, "rows": 4000, "effective_sample_size": 812.0},
        "examples": [
            {
                "user": str(user),
                "history": ["The Third Man (1949)", "Casablanca (1942)"],
                "items": [
                    {"title": f"Film {item}", "score": 0.9 - place / 20, "sources": ["two_tower"], "hit": place == 2}
                    for place, item in enumerate(trace.final[user, :5].tolist())
                ],
            }
            for user in range(10)
        ],
        "data": {"fingerprint": "sha256:3f9a…", "rows": 1_000_209},
        "config": {"retrieval": {"width": 64}, "note": "<script>alert(1)</script>"},
    }  # fmt: skip


class Checker(HTMLParser):
    """Open tags must close, in order; nothing may point outside the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        links = [str(value) for name, value in attrs if name in ("src", "href", "action")]
        self.links += [link for link in links if not link.startswith("#")]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.links == []
    assert not re.search(r"url\(|@import|<script|https?://", page)
    return checker


def test_the_full_page_is_whole_and_self_contained() -> None:
    report = full_report()
    page = evaluation_page(report)
    check(page)
    for section in SECTIONS:
        assert f'<section id="{section}">' in page
    assert report["funnel"]["verdict"].replace("'", "&#39;") in page
    assert "The Third Man (1949)" in page
    assert "&lt;script&gt;alert(1)" in page
    assert f"{report['retrieval']['two_tower']['ndcg@10']:.4f}" in page
    assert "nan" not in re.sub(r"<[^>]*>", " ", page).lower().split()
    assert len(page) < 400_000


@pytest.mark.parametrize("section", SECTIONS)
def test_any_section_may_be_absent_or_alone(section: str) -> None:
    report = full_report()
    alone = evaluation_page({section: report[section]})
    check(alone)
    assert re.findall(r'<section id="(\w+)"', alone) == [section]
    without = evaluation_page({name: value for name, value in report.items() if name != section})
    check(without)
    assert f'<section id="{section}"' not in without


def test_an_empty_report_and_undefined_numbers() -> None:
    check(evaluation_page({}))
    one_class = ranking_metrics(np.zeros(5), np.full(5, 0.2), np.arange(5), config=EvaluationConfig(draws=5))
    page = evaluation_page({"ranking": {"like": one_class}})
    check(page)
    assert "–" in page


def test_text_from_the_data_is_escaped() -> None:
    evil = '"><img src=x onerror=alert(1)>'
    level = GateLevel(
        streams=(evil,),
        experts=(evil, evil + "2"),
        weights=np.full((4, 1, 2), 0.5),
        outputs=np.eye(4)[:, None].repeat(2, 1),
        visible=((0, 1),),
    )
    page = evaluation_page(
        {
            "title": evil,
            "retrieval": {evil: {"recall@10": 0.1, "ndcg@10": 0.1}},
            "gates": gate_report([level]) | {"epochs": [{"epoch": 1, **gate_report([level])}]},
            "examples": [{"user": evil, "history": [evil], "items": [{"title": evil, "sources": [evil]}]}],
            "findings": [{"severity": "error", "name": evil, "sentence": evil}],
            "slices": [
                {"column": evil, "value": evil, "metric": "auc", "estimate": 0.5, "low": None, "high": None, "size": 1,
                 "share": 1.0, "gap": 0.1, "cost": 0.1}
            ],
            "index": {"factory": evil},
        }
    )  # fmt: skip
    check(page)
    assert "<img" not in page


BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_shows_it_on_a_phone_without_sideways_scrolling(tmp_path: Path) -> None:
    probe = (
        "<script>parent.document.title=document.documentElement.scrollWidth+' '+innerWidth+' '"
        "+document.body.scrollHeight</script></body>"
    )
    phone = escape(evaluation_page(full_report()).replace("</body>", probe), quote=True)
    frame = f'<body style="margin:0"><iframe srcdoc="{phone}" style="width:360px;height:900px;border:0"></iframe>'
    (tmp_path / "page.html").write_text(f'<meta charset="utf-8"><title></title>{frame}', encoding="utf-8")
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=500,900",
    ]
    folder = [f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'page.html'}"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    dumped = subprocess.run(
        [*command, "--dump-dom", *folder], capture_output=True, text=True, timeout=120, check=True, env=environment
    ).stdout
    sizes = re.search(r"<title>(\d+) (\d+) (\d+)</title>", dumped)
    assert sizes is not None
    width, screen, height = map(int, sizes.groups())
    assert width <= screen == 360
    assert height > 3000
    picture = tmp_path / "page.png"
    subprocess.run(
        [*command, f"--screenshot={picture}", *folder], capture_output=True, timeout=120, check=True, env=environment
    )
    content = picture.read_bytes()
    assert struct.unpack(">II", content[16:24]) == (500, 900)
    assert len(content) > 20_000  # a blank page is a few kilobytes
