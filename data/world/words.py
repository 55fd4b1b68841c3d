"""The vocabulary of the embedded world: what its items are called and who its users are."""

from __future__ import annotations

CATALOGUE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Outdoor": (("Tent", "Backpack", "Lantern"), ("Trail", "Summit", "Weatherproof", "Ultralight", "Alpine")),
    "Kitchen": (("Skillet", "Knife", "Kettle"), ("Cast-Iron", "Chef's", "Copper", "Enamelled", "Everyday")),
    "Books": (("Mystery", "Memoir", "Atlas"), ("Annotated", "Illustrated", "Midnight", "Pocket", "Collected")),
    "Music": (("Guitar", "Keyboard", "Headphones"), ("Acoustic", "Studio", "Vintage", "Stage", "Resonant")),
    "Garden": (("Planter", "Shears", "Trellis"), ("Cedar", "Evergreen", "Terracotta", "Perennial", "Courtyard")),
    "Fitness": (("Dumbbell", "Mat", "Tracker"), ("Endurance", "Flex", "Interval", "Power", "Balance")),
    "Gaming": (("Controller", "Board Game", "Headset"), ("Arcade", "Legendary", "Tactical", "Retro", "Co-op")),
    "Beauty": (("Serum", "Perfume", "Palette"), ("Radiant", "Botanical", "Silk", "Velvet", "Dewy")),
    "Toys": (("Puzzle", "Train Set", "Robot"), ("Wooden", "Magnetic", "Rainbow", "Build-It", "Pocket-Size")),
    "Office": (("Desk Lamp", "Notebook", "Chair"), ("Ergonomic", "Dotted", "Minimal", "Executive", "Foldable")),
    "Fashion": (("Jacket", "Sneakers", "Scarf"), ("Tailored", "Linen", "Denim", "Cashmere", "Reversible")),
    "Travel": (("Suitcase", "Camera", "Pillow"), ("Cabin", "Compact", "Expedition", "Memory-Foam", "Wander")),
}
"""Category -> (its subcategories, the adjectives its titles are made of)."""

BRANDS = tuple(
    f"{one}{two}" for one in ("Nor", "Bel", "Kes", "Tin", "Mar") for two in ("da", "vane", "trel", "low")
)  # Norda, Belvane, Kestrel, Marlow and their like

GENDERS = ("f", "m", "x")
REGIONS = ("north", "south", "east", "west", "coast", "capital")
DEVICES = ("phone", "tablet", "desktop")
