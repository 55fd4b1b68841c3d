"""History encoders by name: `build_sequence_encoder(SequenceConfig(encoder="lstm"), event_width=64)`.

The encoders stand in `pooling` (mean, decayed_mean), `recurrent` (lstm, dupn), `transformer` and, by the names of
their papers, `sasrec`, `esasrec`, `gru4rec`, `bert4rec` and `hstu`; what they share is in `base` and `attention`. A new
one is a class in a file of its own, decorated with `register_encoder` and imported here.
"""

from __future__ import annotations

from .base import ENCODERS, SequenceConfig, SequenceEncoder, register_encoder
from .bert4rec import BERT4RecEncoder
from .esasrec import ESASRecEncoder
from .gru4rec import GRU4RecEncoder
from .hstu import HSTUEncoder
from .pooling import DecayedMeanEncoder, MeanEncoder
from .recurrent import DUPNEncoder, LSTMEncoder, PropertyGatedLSTM
from .sasrec import SASRecEncoder
from .transformer import TransformerEncoder

__all__ = [
    "ENCODERS",
    "BERT4RecEncoder",
    "DUPNEncoder",
    "DecayedMeanEncoder",
    "ESASRecEncoder",
    "GRU4RecEncoder",
    "HSTUEncoder",
    "LSTMEncoder",
    "MeanEncoder",
    "PropertyGatedLSTM",
    "SASRecEncoder",
    "SequenceConfig",
    "SequenceEncoder",
    "TransformerEncoder",
    "build_sequence_encoder",
    "register_encoder",
]


def build_sequence_encoder(
    config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0
) -> SequenceEncoder:
    """Build the encoder that the configuration names.

    Args:
        config: the section of the configuration.
        event_width: width of an event's item side.
        property_width: width of its property side; 0 for none.
        query_width: width of the user's query vector; 0 for none.

    Returns:
        The encoder, with freshly initialised weights.

    Raises:
        ConfigError: no encoder has that name.
    """
    return ENCODERS[config.encoder](config, event_width, property_width, query_width)
