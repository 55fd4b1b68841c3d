"""The pages of all results: `docs/results/*.json` as one markdown page a data set, and a summary above them.

python benchmarks/harness/table.py            # writes docs/results/*.md and the pictures
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from recsys.base.errors import DataError
from recsys.base.files import write_whole
from recsys.benchmarks.harness.books import BASELINES, book_section, chosen, markdown_table, number
from recsys.benchmarks.harness.forest import draw_all
from recsys.benchmarks.harness.generic import generic_section, generic_summary, minutes_section
from recsys.benchmarks.harness.provenance import RESULTS, Json
from recsys.benchmarks.harness.recorded import folds_section, run_section
from recsys.benchmarks.harness.serving import serving_sections
from recsys.benchmarks.harness.speeds import speed_section

WRITTEN = "Written by `python benchmarks/harness/table.py` from the JSON files beside it."
INTRODUCTION = f"""# Results

Every number here was measured by a script in `benchmarks/` and can be measured again by the command beside it.
The JSON files hold what the tables leave out: settings, seeds, commit, data hash, machine, every seed's values.
{WRITTEN}
"""
LEGEND = """`±` is the standard deviation over seeds.
The best mean of a column is **bold**.
That says nothing about whether the difference is more than luck: see the intervals.
"""
PAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "generic": ("One generic configuration on every log", ("generic-",)),
    "minutes": ("What a training time buys", ("minutes-",)),
    "movielens-1m": ("MovieLens-1M", ("movielens",)),
    "movielens-100k": ("MovieLens-100K", ("ml-100k",)),
    "movielens-latest-small": ("MovieLens latest-small", ("ml-latest-small",)),
    "kuairand": ("KuaiRand-Pure", ("kuairand",)),
    "census": ("Census-Income (KDD)", ("census",)),
    "adult": ("Adult", ("adult",)),
    "synthetic": ("Drawn tasks", ("synthetic", "collapse")),
    "embedded-world": ("The embedded world", ("esmm-truth", "off-policy", "world", "demo")),
    "service": ("The service", ("serving-",)),
    "speed": ("Speed", ()),
}
"""Page -> its title, and words of which the name of a file on it holds one; speed benchmarks know theirs."""
TOWERS, FUNNEL = ("towers",), "funnel_select_"
SUMMARY: Sequence[tuple[str, str, str]] = (
    ("MovieLens-1M, last item left out", "retrieval-movielens", "test/ndcg@10"),
    ("MovieLens-1M, global time split", "retrieval-movielens-time", "test/ndcg@10"),
    ("MovieLens-1M, 5-core, last item left out", "retrieval-movielens-5core", "test/ndcg@10"),
    ("MovieLens-100K, last item left out", "retrieval-ml-100k", "test/ndcg@10"),
    ("MovieLens latest-small, last item left out", "retrieval-ml-latest-small", "test/ndcg@10"),
    ("KuaiRand-Pure, long views, split by time", "retrieval-kuairand-long", "test/ndcg@10"),
    ("KuaiRand-Pure, click", "ranking-kuairand", "test/auc/click"),
    ("Census-Income, income", "ranking-census", "test/auc/income"),
    ("Census-Income, college degree", "ranking-census2", "test/auc/college"),
)
"""Row of the summary: what it says, its file, its metric."""


def page_of(name: str) -> str:
    """The page that a file of `docs/results` stands on.

    Raises:
        DataError: none of `PAGES` claims it.
    """
    claims = [page for page, (_, words) in PAGES.items() if any(word in name for word in words)]
    if not claims:
        raise DataError(f"no page of benchmarks/harness/table.py claims {name}.json; add one of its words to PAGES")
    return claims[0]


def render(books: Sequence[Json], title: str = "Results", singles: Sequence[str] = ()) -> str:
    """A page.

    Args:
        books: files with variants.
        title: heading of the page.
        singles: sections of files that hold one measurement, as markdown.
    """
    sections = [*singles, *map(book_section, books)]
    heads = [section.split("\n", 1)[0].removeprefix("## ") for section in sections]
    contents = "\n".join(f"- [{head}](#{_anchor(head)})" for head in heads)
    intro = f"# {title}\n\n{LEGEND if books else ''}{WRITTEN}"
    return "\n\n".join(part.strip("\n") for part in (intro, contents, *sections)) + "\n"


def render_summary(books: Mapping[str, Json], pages: Sequence[str]) -> str:
    """The front page: a row for each data set and protocol, and the list of pages.

    Args:
        books: name -> file with variants.
        pages: those that there are.
    """
    rows = []
    for label, name, metric in SUMMARY:
        if name not in books:
            continue
        variants = books[name]["variants"]
        lists = name.startswith("retrieval")
        ours = chosen(books[name], TOWERS if lists else ())
        rivals = {n: r["mean"][metric] for n, r in variants.items() if r["group"] in BASELINES and metric in r["mean"]}
        rival = max(rivals, key=lambda n: rivals[n])
        funnel = variants.get(FUNNEL + ours)
        cells = [_cell(rival, variants[rival], metric), _cell(ours, variants[ours], metric)]
        cells.append(_cell("", funnel, metric) if funnel else "")
        rows.append([f"[{label}]({page_of(name)}.md)", metric.split("/")[1].upper(), *cells])
    about = (
        "The baseline of a row is the best one on the test part.\nThe model is the one that validation chose, and the "
        "funnel stands on that model.\nFigures are means over seeds, `±` their standard deviation."
    )
    table = markdown_table(["data", "measure", "best baseline", "chosen model", "whole funnel"], rows)
    links = "\n".join(f"- [{PAGES[page][0]}]({page}.md)" for page in pages)
    return "\n\n".join(part.strip("\n") for part in (INTRODUCTION, about, table, links)) + "\n"


def _cell(name: str, record: Json, metric: str) -> str:
    mean, sd = record["mean"][metric], record["sd"].get(metric)
    spread = "" if sd is None else f" ± {number(metric, sd)}"
    return f"{number(metric, mean)}{spread}" + (f" (`{name}`)" if name else "")


def _anchor(title: str) -> str:
    letters = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return letters.replace(" ", "-")


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=RESULTS, help="folder of the JSON files (default: %(default)s)")
    folder: Path = options.parse_args().folder
    books: dict[str, Json] = {}
    singles: dict[str, list[str]] = {page: [] for page in PAGES}
    trials: list[Json] = []
    generic: list[Json] = []
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if "variants" in found:
            books[file.stem] = {**found, "figures": [*found["figures"], *draw_all(found, folder)]}
        elif "benchmark" in found:
            singles["speed"].append(speed_section(found))
        elif "generic" in found:
            generic.append(found)
        elif "minutes" in found:
            singles["minutes"].append(minutes_section(found))
        elif "trial" in found:
            trials.append(found)
        elif "folds" in found:
            singles[page_of(file.stem)].append(folds_section(file.stem.removeprefix("folds-"), found))
        else:
            singles[page_of(file.stem)].append(run_section(file.stem.removeprefix("run-"), found))
    singles["service"] = serving_sections(trials)
    singles["generic"] = [generic_summary(generic), *map(generic_section, generic)] if generic else []
    pages = []
    for page, (title, _) in PAGES.items():
        on_it = [book for name, book in books.items() if page_of(name) == page]
        if on_it or singles[page]:
            pages.append(page)
            write_whole(folder / f"{page}.md", render(on_it, title, singles[page]))
    write_whole(folder / "README.md", render_summary(books, pages))
    print(f"{len(pages)} pages and a summary in {folder}")


if __name__ == "__main__":
    main()
