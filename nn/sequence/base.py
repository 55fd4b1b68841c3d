"""What every history encoder shares: its configuration, its interface, and the registry of names.

An encoder turns a user's events, oldest first and padded at the end, into one state per event. State t knows the
events up to and including t and nothing later, so one pass over a window trains every position of it, and serving
takes the state of the last event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from ...base.errors import ConfigError
from ...base.registry import Registry
from ...base.settings import Settings, checked_settings


class SequenceConfig(Settings):
    """How a user's history becomes a vector."""

    encoder: str = "lstm"
    """Name of the encoder: mean, decayed_mean, lstm, dupn, transformer, or one by the name of its paper: sasrec,
    esasrec, gru4rec, bert4rec, hstu; extensions add others."""
    options: dict[str, Any] = {}
    """Keys of an encoder that an extension adds, see its page in `recsys models`; the built-in ones have none."""
    hidden: int = Field(default=128, ge=1)
    """Width of the states; the means keep the width of the events."""
    layers: int = Field(default=1, ge=1)
    """Stacked layers or blocks of every encoder but the means."""
    heads: int = Field(default=2, ge=1)
    """Attention heads of transformer, sasrec, esasrec, bert4rec and hstu; must divide `hidden`."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of activations zeroed while training: after a mean, before and after a recurrence, in every block that
    attends. The layers that read the states add none of their own."""
    max_length: int = Field(default=200, ge=1)
    """Events kept per history, the most recent ones; the encoders that attend tell positions apart up to it."""
    window: int | None = Field(default=None, ge=1)
    """The mean looks at the last `window` events; none: at all of them."""
    half_lives: tuple[PositiveFloat, ...] = Field(default=(1.0, 4.0, 16.0, 64.0), min_length=1)
    """Where the learned decay rates of decayed_mean start: events after which the weight of an event has halved."""
    attention_hidden: int = Field(default=64, ge=1)
    """Width of the hidden layer that scores events in dupn's attention."""
    user_in_attention: bool = True
    """Let dupn's attention see the user beside the history: profile, context and counts of the request in a ranker, the
    user's own features in the towers."""
    event_norm: bool | None = None
    """Layer norm on the events before the first layer of every encoder but the means. Absent: on for lstm and
    transformer, off for the others, whose sources have none."""
    peephole: bool = False
    """Let dupn's gates see the memory cell. Not in one fused kernel: one Python step per event, many times slower."""
    time_buckets: int = Field(default=32, ge=2)
    """Classes of the time between two events (powers of two of a second) in the attention of transformer and hstu."""
    fast: bool = True
    """While training, run the recurrence in bfloat16 where the CPU has it; evaluation and serving are float32."""

    @model_validator(mode="after")
    def _options_of_the_encoder(self) -> Self:
        if ENCODERS.find(self.encoder):
            checked_settings(ENCODERS[self.encoder].Options, f"history encoder {self.encoder}", self.options)
        return self

    @property
    def reads_user(self) -> bool:
        """Whether the encoder wants a vector of the user beside the history."""
        return self.encoder == "dupn" and self.user_in_attention

    @property
    def normalises_events(self) -> bool:
        """Whether events pass a layer norm before the first layer."""
        return self.encoder in ("lstm", "transformer") if self.event_norm is None else self.event_norm


class SequenceEncoder(nn.Module):
    """Interface of every history encoder. A subclass sets `output_width` and implements `encode`.

    Args:
        config: the section of the configuration.
        event_width: De, width of an event's item side.
        property_width: Dp, width of its property side (behaviour type, scene, time features); 0 for none.
        query_width: width of a vector about the user beside the history (dupn's attention reads it); 0 for none.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = "baseline"
    Options: ClassVar[type[Settings]] = Settings
    """Class of the `options` of the configuration."""
    fills: ClassVar[bool] = False
    """Whether it learns by filling in hidden events (`filled`), reading what stands on both sides of them."""
    output_width: int
    """D, width of a state."""

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__()
        self.config = config
        self.options: Any = checked_settings(self.Options, f"history encoder {self.name}", config.options)
        self.event_width = event_width
        self.property_width = property_width
        self.query_width = query_width

    def _add_no_history(self, output_width: int) -> None:
        """Set the output width and the learned state of a user without history (starts at zero)."""
        self.output_width = output_width
        self.no_history = nn.Parameter(torch.zeros(output_width))

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """States `[B, L, D]` of events `[B, L, De]`, L > 0; state t must depend on events <= t only."""
        raise NotImplementedError

    def forward(
        self,
        events: Tensor,
        properties: Tensor | None = None,
        lengths: Tensor | None = None,
        *,
        times: Tensor | None = None,
        query: Tensor | None = None,
    ) -> Tensor:
        """One state per event.

        Args:
            events: `[B, L, De]` float, oldest first, padding at the end.
            properties: `[B, L, Dp]` float, when the encoder was built with a property width.
            lengths: `[B]` int, valid events per row. Causality makes them unnecessary here; accepted so that
                `forward` and `last` are called alike.
            times: `[B, L]` seconds of the events, not falling, any origin; the transformer reads them.
            query: `[B, Dq]` float, when the encoder was built with a query width.

        Returns:
            `[B, L, D]`; states at padding are finite and carry no meaning.

        Raises:
            ConfigError: a width differs from the one the encoder was built with.
        """
        self._check(events, properties, query)
        if events.shape[1] == 0:
            return events.new_zeros(events.shape[0], 0, self.output_width)
        return self.encode(events, properties, times, query)

    def last(
        self,
        events: Tensor,
        properties: Tensor | None,
        lengths: Tensor,
        *,
        times: Tensor | None = None,
        query: Tensor | None = None,
    ) -> Tensor:
        """The state at the last valid event, or the learned no-history vector where there is none.

        Args:
            events: as in `forward`.
            properties: as in `forward`.
            lengths: `[B]` int, 0 to L.
            times: as in `forward`.
            query: as in `forward`.

        Returns:
            `[B, D]`.
        """
        return self._pick(self(events, properties, lengths, times=times, query=query), lengths)

    def filled(
        self,
        events: Tensor,
        properties: Tensor | None,
        hidden: Tensor,
        lengths: Tensor,
        *,
        times: Tensor | None = None,
        query: Tensor | None = None,
    ) -> Tensor:
        """What is said of events that are hidden, by all others of the window: of encoders that fill in.

        Args:
            events: as in `forward`.
            properties: as in `forward`.
            hidden: bool `[B, L]`; nothing of these events is read but their places.
            lengths: `[B]` int, valid events per row.
            times: as in `forward`.
            query: as in `forward`.

        Returns:
            `[B, L, D]`; the states at hidden events. In front, where the first event is not hidden, stands the
            no-history vector, which is to say it without having read anything.
        """
        raise NotImplementedError

    def before(self, states: Tensor) -> Tensor:
        """Shift states so that entry t is what was known before event t: what a next-event loss trains on.

        Args:
            states: `[B, L, D]` from `forward`.

        Returns:
            `[B, L, D]`; entry 0 is the no-history vector, which learns through it.
        """
        return self.between(states[:, :-1])[:, : states.shape[1]]

    def between(self, states: Tensor) -> Tensor:
        """States with the no-history vector in front: entry t knows the first t events.

        Args:
            states: `[B, L, D]` from `forward`.

        Returns:
            `[B, L + 1, D]`.
        """
        first = self.no_history.to(states.dtype).expand(states.shape[0], 1, -1)
        return torch.cat([first, states], dim=1)

    def _pick(self, states: Tensor, lengths: Tensor) -> Tensor:
        empty = self.no_history.to(states.dtype).expand(states.shape[0], -1)
        if states.shape[1] == 0:
            return empty
        rows = torch.arange(states.shape[0], device=states.device)
        return torch.where((lengths > 0)[:, None], states[rows, (lengths.long() - 1).clamp(min=0)], empty)

    def _check(self, events: Tensor, properties: Tensor | None, query: Tensor | None) -> None:
        given = {
            "event": events.shape[-1],
            "property": 0 if properties is None else properties.shape[-1],
            "query": 0 if query is None else query.shape[-1],
        }
        built = {"event": self.event_width, "property": self.property_width, "query": self.query_width}
        for part, width in given.items():
            if width != built[part]:
                raise ConfigError(
                    f"the {self.name} encoder was given {part} vectors of width {width} but was built for width "
                    f"{built[part]}; build it with {part}_width={width}"
                )


ENCODERS: Registry[type[SequenceEncoder]] = Registry("history encoder")
"""Every known encoder by name; filled by `register_encoder`."""

Encoder = TypeVar("Encoder", bound=type[SequenceEncoder])


def register_encoder(name: str) -> Callable[[Encoder], Encoder]:
    """Class decorator: make an encoder available to the configuration under `name`."""

    def add(encoder: Encoder) -> Encoder:
        encoder.name = name
        ENCODERS.register(name, encoder)
        return encoder

    return add


def fitted(width: int, hidden: int) -> nn.Module:
    """From the width of what enters to that of the states: nothing where they agree, as the papers have it, else a
    linear map.
    """
    return nn.Identity() if width == hidden else nn.Linear(width, hidden)


class EventInput(nn.Module):
    """What enters a recurrence or a transformer: layer-normalised, dropped-out events beside their properties.

    Normalising makes the first layer independent of the scale of the item embeddings. Properties are left as they
    come: a layer norm would erase a property of width one.

    Args:
        event_width: De.
        dropout: applied to the events.
        normalise: whether events pass a layer norm.
    """

    def __init__(self, event_width: int, dropout: nn.Module, normalise: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(event_width) if normalise else nn.Identity()
        self.dropout = dropout

    def forward(self, events: Tensor, properties: Tensor | None) -> Tensor:
        """Return `[B, L, De + Dp]`."""
        events = self.dropout(self.norm(events))
        return events if properties is None else torch.cat([events, properties], dim=-1)
