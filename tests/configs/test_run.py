"""Configurations are read strictly, and every mistake is one sentence with the place, the finding and the mend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, model_validator

import recsys
from recsys.base.errors import ConfigError
from recsys.base.settings import OneOf, Settings
from recsys.configs.file import dump_toml, load_settings, parse_override, read_extended
from recsys.configs.retired import RETIRED
from recsys.configs.run import RunConfig, config_hash, load_config, load_kept_config, write_config
from recsys.tests.support.nonempty import nonempty


class Model(Settings):
    """A stand-in for what all rankers share."""

    kind: str = "expert"


class Expert(Model):
    """A stand-in for one ranker's own section."""

    kind: str = "expert"
    num_experts: int = Field(default=8, ge=1)
    hidden: tuple[int, ...] = (64, 32)
    gate: Literal["softmax", "sigmoid"] = "softmax"


class Plain(Model):
    """A stand-in for another ranker's section."""

    kind: str = "plain"
    depth: int = 1


class Part(Settings):
    """A list element."""

    name: str
    bins: int = 8


class Ranking(Settings):
    """A stand-in for a section whose sub-table is of one of several kinds."""

    model: Annotated[Model, OneOf(lambda: {"expert": Expert, "plain": Plain}, default="expert")] = Expert()
    learning_rate: float = Field(default=0.1, gt=0, lt=1, allow_inf_nan=False)
    patience: int | None = None


class Toy(Settings):
    """A whole file."""

    name: str
    ranking: Ranking = Ranking()
    parts: tuple[Part, ...] = ()
    options: dict[str, str | int | bool] = {}
    k: int = 10
    candidates: int = 100
    since: str = ""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.candidates < self.k:
            raise ValueError(f"candidates = {self.candidates} is less than k = {self.k}; raise candidates")
        return self


TOML = """# a toy
k = 5
since = 2022-05-03

[ranking]
learning_rate = 0.5

[ranking.model]
kind = "expert"
num_experts = 4

[[parts]]
name = "a"

[[parts]]
name = "b"
bins = 3
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    file = tmp_path / "toy.toml"
    file.write_text(TOML)
    return file


def load(file: Path, *overrides: str) -> Toy:
    return load_settings(Toy, file, overrides, {"name": "toy"})


def test_a_file_is_read_and_overridden(toy: Path) -> None:
    config = load(toy, "ranking.model.num_experts=16", "parts.1.bins=4", "ranking.model.gate=sigmoid", "name = 'x y'")
    assert config.ranking.model == Expert(num_experts=16, gate="sigmoid")
    assert [part.bins for part in config.parts] == [8, 4]
    assert (config.k, config.since, config.name) == (5, "2022-05-03", "x y")


def test_later_overrides_win_and_make_tables(toy: Path) -> None:
    assert load(toy, "k=1", "k=2").k == 2
    toy.write_text("")
    assert load(toy, "ranking.model.hidden=[8]").ranking.model == Expert(hidden=(8,))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b = 1e-3", 1e-3),
        ("a.b=true", True),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=adam", "adam"),
        ('a.b="2"', "2"),
        ("a.b=x=y", "x=y"),
        ("a.b=IVF64,Flat", "IVF64,Flat"),
        ("a.b=", ""),
        ("a.b=1\nc=2", "1\nc=2"),
    ],
)
def test_an_override_is_toml_or_a_bare_word(text: str, value: object) -> None:
    override = parse_override(text)
    assert override.keys == ("a", "b")
    assert override.value == value
    assert type(override.value) is type(value)


MISTAKES = [
    (["ranking.model.num_expert=3"], '"ranking.model.num_expert" is no key of [ranking.model]; did you mean '
     '"ranking.model.num_experts"?'),
    (["rankin.model=3"], '"rankin" is no key of the configuration; did you mean "ranking"?'),
    (["bin=3"], '"bin" is no key of the configuration; did you mean "parts.bins"?'),
    (["ranking.zzz=3"], '"ranking.zzz" is no key of [ranking]; its keys are model, learning_rate, patience'),
    (["ranking.learning_rate=2"], "ranking.learning_rate = 2; expected less than 1"),
    (["ranking.learning_rate=nan"], "ranking.learning_rate = NaN; expected a finite number"),
    (["ranking.model.num_experts=0"], "ranking.model.num_experts = 0; expected at least 1"),
    (["ranking.model.kind=plane"], 'ranking.model.kind = "plane"; expected one of expert, plain; did you mean '
     '"plain"?'),
    (["ranking.model.depth=2"], '"ranking.model.depth" is no key of [ranking.model]; its keys are kind, num_experts, '
     'hidden, gate'),
    (["ranking.model.gate=soft"], 'ranking.model.gate = "soft"; expected "softmax" or "sigmoid"'),
    (['k="8"'], 'k = "8"; expected a whole number'),
    (["k=8.5"], "k = 8.5; expected a whole number"),
    (["k=True"], 'k = "True"; expected a whole number'),
    (["parts=3"], "parts = 3; expected a list in [ ]"),
    (["ranking=3"], "ranking = 3; expected a table"),
    (["parts.1={}"], '"parts.1.name" is missing; add it'),
    (["parts.0.bins=many"], 'parts.0.bins = "many"; expected a whole number'),
    (["options.x=[1]"], "options.x = [1]; expected text in quotes or a whole number or true or false"),
    (["k=500"], "candidates = 100 is less than k = 500; raise candidates"),
    (["k"], "expected KEY=VALUE"),
    (["parts.7.bins=1"], 'there is no "7" in parts, which is a list of 2'),
    (["k.x=1"], 'there is no "x" in k, which is no table'),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "sentence"), MISTAKES)
def test_a_mistake_says_where_what_and_how_to_mend_it(toy: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(toy, *overrides)
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message
    assert "pydantic" not in message
    assert message.startswith((f"--set {overrides[0]}: ", str(toy)))


def test_a_mistake_in_the_file_names_its_line(toy: Path) -> None:
    toy.write_text(TOML.replace("num_experts = 4", "num_experts = 4\nhiden = [3]").replace("bins = 3", 'bins = "3"'))
    with pytest.raises(ConfigError) as caught:
        load(toy)
    assert str(caught.value).splitlines() == [
        f'{toy}, line 11: "ranking.model.hiden" is no key of [ranking.model]; did you mean "ranking.model.hidden"?',
        f'{toy}, line 18: parts.1.bins = "3"; expected a whole number',
    ]


def test_broken_toml_and_missing_files_are_named(toy: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file .*toi.toml; did you mean .*toy.toml\?"):
        load(toy.with_name("toi.toml"))
    toy.write_text("k = \n")
    with pytest.raises(ConfigError, match=r"toy.toml is not valid TOML: .*line 1"):
        load(toy)
    toy.write_bytes(b"k = \xff")
    with pytest.raises(ConfigError, match=r"toy.toml is not valid TOML"):
        load(toy)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(toy.parent)


def test_toml_round_trip_keeps_every_key(toy: Path) -> None:
    config = load(toy)
    again = toy.with_name("again.toml")
    again.write_text(dump_toml(config))
    assert load(again) == config
    assert "candidates = 100" in again.read_text()  # a default, spelt out
    assert config_hash(load(again)) == config_hash(config) != config_hash(load(toy, "k=6"))


RUN = """
[data]
path = "../sets/ml.zip"
source = "movielens"
"""


def test_a_run_is_called_after_its_file_and_keeps_its_paths_when_moved(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "runs/small").mkdir(parents=True)
    file = tmp_path / "configs/small.toml"
    file.write_text(RUN)
    config = load_config(file)
    assert config.name == "small"
    written = tmp_path / "runs/small/config.toml"
    write_config(config, file.parent, written)
    moved = load_config(written)
    assert (written.parent / moved.data.path).resolve() == (tmp_path / "sets/ml.zip").resolve()
    assert moved.name == "small"
    assert moved.model_copy(update={"data": config.data}) == config


@pytest.mark.parametrize("name", ["latest", "../x", ".hidden", ""])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.toml").write_text(RUN)
    with pytest.raises(ConfigError, match="name"):
        load_config(tmp_path / "a.toml", [f'name="{name}"'])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("blend.weights={clik=1.0}", 'blend.weights names "clik", which is no task; tasks: click'),
        ("blend.weights={selct=1.0}", 'did you mean "select"?'),
        ('blend={kind="task", task="lik"}', 'blend.task names "lik", which is no task'),
    ],
)
def test_a_blend_of_no_task_is_refused_when_it_is_read(tmp_path: Path, override: str, sentence: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[data]\nevents = "e.csv"\n[[data.tasks]]\nname = "click"\n[[data.tasks]]\nname = "like"\n')
    assert load_config(file, ["blend.weights={click=1.0, select=2.0}"]).blend.weights == {"click": 1.0, "select": 2.0}
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    assert sentence in str(caught.value)


def test_every_section_is_documented() -> None:
    for name, field in nonempty(RunConfig.model_fields.items()):
        assert field.description, name


def test_a_file_that_extends_another_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("a = 1\nlist = [1, 2]\n[t]\nx = 1\ny = 2\n[t.deep]\nz = 3\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/middle.toml").write_text('extends = "../base.toml"\n[t]\ny = 20\n')
    (tmp_path / "top.toml").write_text('extends = "folder/middle.toml"\na = 5\nlist = [7]\n[t.deep]\nw = 4\n')
    assert read_extended(tmp_path / "top.toml", Settings)[0] == {
        "a": 5,
        "list": [7],
        "t": {"x": 1, "y": 20, "deep": {"z": 3, "w": 4}},
    }


def test_of_several_files_a_later_one_goes_on_top_and_the_file_itself_above_all(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("a = 1\nb = 1\nc = 1\n[t]\nx = 1\ny = 1\n")
    (tmp_path / "two.toml").write_text("b = 2\nc = 2\n[t]\ny = 2\n")
    (tmp_path / "top.toml").write_text('extends = ["one.toml", "two.toml"]\nc = 3\n')
    found = read_extended(tmp_path / "top.toml", Settings)[0]
    assert found == {"a": 1, "b": 2, "c": 3, "t": {"x": 1, "y": 2}}


@pytest.mark.parametrize("by_command", [False, True])
def test_another_kind_of_ranker_keeps_what_all_share_and_drops_what_is_its_own(
    tmp_path: Path, by_command: bool
) -> None:
    base = 'name = "run"\n[data]\nsource = "movielens"\npath = "."\n[ranking.model]\nkind = "mmoe"\nnum_experts = 3\n'
    (tmp_path / "base.toml").write_text(base + "dropout = 0.3\n[ranking.model.input]\nembedding_dim = 12\n")
    (tmp_path / "top.toml").write_text('extends = "base.toml"\n[ranking.model]\nkind = "cgc"\nshared_experts = 5\n')
    if by_command:
        model = load_config(
            tmp_path / "base.toml", ["ranking.model.shared_experts=5", "ranking.model.kind=cgc"]
        ).ranking.model
    else:
        model = load_config(tmp_path / "top.toml").ranking.model
    assert (model.kind, model.dropout, model.input.embedding_dim) == ("cgc", 0.3, 12)
    assert model.model_dump()["shared_experts"] == 5
    (tmp_path / "top.toml").write_text('extends = "base.toml"\n[ranking.model]\nkind = "cgc"\nnum_experts = 5\n')
    with pytest.raises(ConfigError, match="num_experts"):
        load_config(tmp_path / "top.toml")  # what the file itself says is never dropped


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('extends = "top.toml"', "extends top.toml, which extends it in turn"),
        ('extends = "nowhere.toml"', "there is no configuration file .*nowhere.toml"),
        ("extends = 3", "extends is 3, expected the path of a file"),
        ('extends = ["top.toml", 3]', "expected the path of a file"),
        ('extends = "recipe:sasre"', 'no recipe "sasre"; there are: bert4rec, esasrec, gru4rec, gsasrec, hstu, sasrec'),
    ],
)
def test_what_cannot_be_extended_is_said(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "top.toml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_extended(tmp_path / "top.toml", Settings)


def test_every_configuration_that_is_shipped_can_be_read() -> None:
    folder = Path(recsys.__path__[0]) / "configs"
    for file in nonempty(sorted(folder.glob("*.toml"))):
        assert load_config(file).name == file.stem


class Stop(Settings):
    """A stand-in for a section that sections above it declare differently."""

    epochs: int = 10
    metric: str = ""
    betas: tuple[float, float] = (0.9, 0.999)


class StageStop(Stop):
    """The section with other defaults."""

    metric: str = "ndcg@10"
    betas: tuple[float, float] = (0.9, 0.98)


class Stage(Settings):
    """A section whose own default for `stop` is not that of `Stop`."""

    stop: StageStop = StageStop()


class SecondStop(StageStop):
    """The section with defaults of a section above."""

    metric: str = "auc"


class SecondStage(Stage):
    """The section with a section of other defaults."""

    stop: SecondStop = SecondStop()


class TwoStages(Settings):
    """A whole file; what it declares for a stage goes above what the stage declares."""

    name: str = ""
    first: Stage = Stage()
    second: SecondStage = SecondStage()


@pytest.mark.parametrize("overrides", [(), ("first.stop.epochs=3", "second.stop.epochs=3")])
def test_a_section_given_in_part_keeps_the_defaults_its_owner_declares(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    file = tmp_path / "two.toml"
    file.write_text("" if overrides else "[first.stop]\nepochs = 3\n[second.stop]\nepochs = 3\n")
    config = load_settings(TwoStages, file, overrides)
    assert config.first.stop == StageStop(epochs=3)
    assert config.second.stop == SecondStop(epochs=3)
    assert load_settings(TwoStages, file, ("first.stop.metric=auc",)).first.stop.metric == "auc"


def test_a_short_training_by_command_line_still_keeps_the_best_epoch(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('name = "short"\n[data]\nsource = "movielens"\npath = "."\n[retrieval.fit]\nepochs = 2\n')
    config = load_config(file, ["ranking.optim.lr=1e-3"])
    assert config.retrieval.fit.metric == RunConfig(name="short", data=config.data).retrieval.fit.metric == "ndcg@10"
    assert config.ranking.optim.schedule == "cosine"


@pytest.mark.parametrize("key", RETIRED)
def test_a_retired_key_is_dropped_from_a_kept_configuration_and_refused_in_a_file(tmp_path: Path, key: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'name = "old"\n{RUN}')
    section, _, name = key.rpartition(".")
    new = load_config(file)
    file.write_text(f'name = "old"\n{RUN}[{section}]\n{name} = "auto"\n')
    assert load_kept_config(file) == new
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == f'{file}, line 7: "{key}" {RETIRED[key]}'
    file.write_text(f'name = "old"\n{RUN}[{section}]\nnever_was_a_key = "auto"\n')
    with pytest.raises(ConfigError, match="never_was_a_key"):
        load_kept_config(file)
