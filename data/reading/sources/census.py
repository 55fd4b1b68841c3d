"""Census-Income (KDD) of the UCI repository (Lane and Kohavi): the multi-task benchmark of the MMoE and PLE papers.

One row a person, no users, items or times. The labels of the papers are ready-made columns: `income_50k`,
`never_married`, and `college` (an associate degree or higher). Take `education`, `marital_stat` and
`instance_weight` out of the inputs, as the papers do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....base.errors import DataError
from ..readers import concatenate
from ..tables import BadRows, RawTable, Tables, quote
from .files import SourceFiles

OFFICIAL = "Census-Income (KDD) of the UCI repository (census-income.data and census-income.test)"
_NAMES = """
    age class_worker det_ind_code det_occ_code education wage_per_hour hs_college marital_stat major_ind_code
    major_occ_code race hisp_origin sex union_member unemp_reason full_or_part_emp capital_gains capital_losses
    stock_dividends tax_filer_stat region_prev_res state_prev_res det_hh_fam_stat det_hh_summ instance_weight
    mig_chg_msa mig_chg_reg mig_move_reg mig_same mig_prev_sunbelt num_emp fam_under_18 country_father
    country_mother country_self citizenship own_or_self vet_question vet_benefits weeks_worked year income_50k
"""
COLUMNS = tuple(_NAMES.split())
"""The 42 columns in file order; the last is the income class."""

NUMERIC = ("age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp", "weeks_worked")
"""The columns that count something; all others are categories, the integer codes among them included."""

_COLLEGE = (
    "Associates degree-occup /vocational",
    "Associates degree-academic program",
    "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)",
    "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)


def load(path: str | Path, *, bad: BadRows | None = None) -> Tables:
    """Load `census-income.data` and `census-income.test` (plain or gzipped) from a folder or zip.

    Args:
        path: folder or zip.
        bad: where lines with too few or too many values go; by default the first of them is an error.

    Returns:
        Events only: the 42 columns as text ("?" is missing, "NA" is a category) with `income_50k` as 0 or 1, and the
        columns `never_married`, `college` (0 or 1) and `file` ("train" or "test").

    Raises:
        DataError: a file is missing or unreadable, or an income class is neither of the two.
    """
    files = SourceFiles(path, "Census-Income", OFFICIAL)
    names = files.need("census-income.data", "census-income.test")
    raw = concatenate([_part(files, name, label, bad) for name, label in zip(names, ("train", "test"), strict=True)])
    return Tables(
        events=raw.table, users=None, items=None, origin={"events": raw.origin}, fingerprint=files.fingerprint()
    )


def _part(files: SourceFiles, name: str, label: str, bad: BadRows | None) -> RawTable:
    raw = files.parse(name, COLUMNS, quoting=False, bad=bad)
    # A column has few distinct values: clean those, not the 8 million cells.
    columns = {column: _clean(raw.table[column]) for column in COLUMNS}
    marital, education = columns["marital_stat"], columns["education"]
    columns["income_50k"] = _income(raw, columns["income_50k"])
    columns["never_married"] = pc.cast(pc.fill_null(pc.equal(marital, "Never married"), False), pa.int8())
    columns["college"] = pc.cast(pc.is_in(education, value_set=pa.array(_COLLEGE)), pa.int8())
    columns["file"] = pa.array(np.full(raw.table.num_rows, label))
    return RawTable(pa.table(columns), raw.origin, raw.digest)


def _clean(values: pa.ChunkedArray) -> pa.Array:
    """Values without the blanks around them; "?" is missing."""
    coded = values.combine_chunks().dictionary_encode()
    words = pc.utf8_trim_whitespace(coded.dictionary)
    return pc.if_else(pc.equal(words, "?"), None, words).take(coded.indices)


def _income(raw: RawTable, income: pa.Array) -> pa.Array:
    over, under = pc.equal(income, "50000+."), pc.equal(income, "- 50000.")
    odd = np.flatnonzero(~pc.fill_null(pc.or_(over, under), False).to_numpy(zero_copy_only=False))
    if odd.size:
        file, place = raw.origin.find(int(odd[0]))
        raise DataError(
            f'{file}, {place}, column "income_50k": found {quote(income[int(odd[0])].as_py())}, '
            'expected "- 50000." or "50000+."; use the official file'
        )
    return pc.cast(over, pa.int8())
