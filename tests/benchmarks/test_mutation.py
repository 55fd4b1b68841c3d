"""The mutation run changes what it says, in memory alone, and tells a test that notices from one that does not."""

from __future__ import annotations

from recsys.benchmarks.harness.provenance import ROOT
from recsys.benchmarks.mutation import key_of, summary
from recsys.benchmarks.mutation_operators import Mutant, mutants_of
from recsys.benchmarks.mutation_tests import relevant_tests

SOURCE = b'''"""Words."""

def mix(a: int, b: float = 1.0) -> float:
    """More words."""
    if a < 2:
        raise ValueError(f"a is {a}")
    return a * b + abs(a)


class Options:
    width: int = 8
'''


def texts(operator: str) -> set[tuple[str, str]]:
    return {(m.before, m.after) for m in mutants_of(SOURCE) if m.operator == operator}


def test_every_operator_changes_its_kind_of_place() -> None:
    assert texts("comparison") == {("a < 2", "((a) <= (2))"), ("a < 2", "((a) > (2))")}
    assert texts("condition negated") == {("a < 2", "not (a < 2)")}
    assert texts("constant") == {("2", "3")}
    assert ("a * b", "((a) / (b))") in texts("arithmetic")
    assert {("a * b", "(a)"), ("a * b", "(b)")} <= texts("term dropped")
    assert ("a * b", "((a) * 0 * (b))") in texts("term times 0")
    assert texts("abs left out") == {("abs(a)", "(a)")}
    assert len(texts("no error")) == 1


def test_defaults_words_and_bodies_of_classes_are_left_alone() -> None:
    touched = {text for mutant in mutants_of(SOURCE) for text in (mutant.before, mutant.scope)}
    assert not touched & {"8", "1.0", "Options"}
    assert not any("words" in text.lower() for text in touched)


def test_a_mutant_changes_its_own_bytes_only() -> None:
    source = "name = 'ü'; x = 3\n".encode()
    [mutant] = mutants_of(source)
    assert mutant.apply(source).decode() == "name = 'ü'; x = 4\n"
    assert (mutant.line, mutant.scope) == (1, "")


def test_the_tests_of_a_file_begin_with_those_of_its_name() -> None:
    assert relevant_tests("nn/gates.py")[0] == "tests/nn/test_gates.py"
    assert "tests/nn/sequence/test_encoders.py" in relevant_tests("nn/sequence/recurrent.py"), "by way of the package"
    assert "tests/ranking/test_losses.py" in relevant_tests("ranking/losses.py")
    assert all((ROOT / test).exists() for test in relevant_tests("ranking/models/ple.py"))


def test_the_table_counts_who_died_and_who_is_explained() -> None:
    def entry(after: str, first: bool, now: bool, why: str = "") -> dict[str, object]:
        fields = {"line": 1, "scope": "f", "operator": "constant", "before": "1", "after": after, "nth": 0}
        return {**fields, "killed_at_first": first, "killed": now, **({"why": why} if why else {})}

    tried = [
        entry("2", True, True),
        entry("3", False, True),
        entry("4", False, False, "equal"),
        entry("5", False, False),
    ]
    table = summary({"files": {"nn/gates.py": {"mutants": 9, "tests": [], "tried": tried}}})
    assert "| nn | 9 | 4 | 25.0% | 50.0% | 1 | 1 |" in table
    assert len({key_of(one) for one in tried}) == len(tried)
    assert isinstance(mutants_of(b"x = 1\n")[0], Mutant)


def test_mutants_that_read_alike_stay_apart() -> None:
    alike = [mutant.nth for mutant in mutants_of(b"x = [7, 7]\ny = 7\n")]
    assert alike == [0, 1, 2]
