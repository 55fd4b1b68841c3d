"""What several processes cannot do together is refused in a sentence, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

import recsys.configs
from recsys.base.errors import ConfigError
from recsys.base.finding import Finding
from recsys.configs.run import RunConfig, load_config
from recsys.pipeline import processes
from recsys.pipeline.processes import refuse_together

PIECES = (
    'runtime.engine="torchrec"',
    'retrieval.optim.table_optimizer="rowwise_adagrad"',
    "retrieval.optim.clip_norm=0",
    'ranking.optim.table_optimizer="rowwise_adagrad"',
    "ranking.optim.clip_norm=0",
)


def config(*settings: str) -> RunConfig:
    return load_config(Path(recsys.configs.__file__).with_name("demo.toml"), settings)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "torchrec_finding", lambda: Finding("ok", "torchrec", "they fit"))


@pytest.mark.usefixtures("packages")
def test_tables_in_pieces_ask_for_what_they_can_do() -> None:
    refuse_together(config(*PIECES))
    asked = {
        'retrieval.optim.table_optimizer="adam"': 'retrieval.optim.table_optimizer = "rowwise_adagrad" (it is "adam")',
        "ranking.optim.clip_norm=1": "ranking.optim.clip_norm = 0 (it is 1)",
        "ranking.optim.table_weight_decay=0.1": "ranking.optim.table_weight_decay = 0 (it is 0.1)",
        "retrieval.new_item_bias=0.5": "no retrieval.new_item_bias",
    }
    for settings in (*((one,) for one in asked), tuple(asked)):  # one at a time, and all at once
        with pytest.raises(ConfigError) as refused:
            refuse_together(config(*PIECES, *settings))
        assert str(refused.value) == f'runtime.engine = "torchrec" needs {", ".join(asked[one] for one in settings)}'


@pytest.mark.usefixtures("packages")
def test_a_stage_that_is_not_trained_is_not_asked() -> None:
    clipped = config(*PIECES, "ranking.optim.clip_norm=1")
    refuse_together(clipped, "retrieval")
    with pytest.raises(ConfigError, match="clip_norm"):
        refuse_together(clipped, "ranking")


def test_packages_that_do_not_fit_are_told_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.base.pairs.installed", lambda name: "2.13.0" if name == "torch" else None)
    with pytest.raises(ConfigError, match=r"TorchRec absent; needed only .*make torchrec"):
        refuse_together(config(*PIECES))


@pytest.mark.parametrize("kind", ["gradnorm", "pcgrad", "cagrad", "metabalance"])
def test_balances_of_whole_gradients_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="needs every task's whole gradient"):
        refuse_together(config(f'ranking.balance.kind="{kind}"'))
