"""A small made-up world: people, cities and firms, and the facts that link them.

The names are fixed, every fact is drawn: two worlds share their vocabulary and nothing else.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping
from typing import Self

from wfr.tasks.source import Document
from wfr.tasks_config import WorldConfig


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    "Ada Ben Cleo Dan Eva Finn Gus Hana Ivan Jana Karl Lena "
    "Milo Nora Otto Pia Rosa Sven Tara Ugo Vera Walt Yuri Zoe"
)
LAST_NAMES = _words(
    "Adler Brandt Costa Duval Engel Falk Grieg Holm Ibsen Jansen Keller Lang "
    "Moreau Novak Olsen Petri Quint Rossi Sand Toth Urban Vogel Weiss Zeman"
)
CITIES = _words(
    "Aarhus Basel Cadiz Delft Essen Faro Ghent Halle Imola Jena Kiel Lyon Mainz Namur Oulu Parma "
    "Reims Siena Trier Ulm Vaasa Worms Ypres Zwolle Arles Bergen Como Dijon Evora Fulda Gera Hanau "
    "Ivrea Kotka Linz Metz Nantes Odense Porto Riga"
)
FIRMS = _words(
    "Acron Bexal Corvo Dynor Eltra Fonex Gravo Helix Inova Jurox Kelda Lutra Mirox Nexum Orbix "
    "Palax Quorn Rondo Solva Tekto Umbra Vexis Wavix Xylon Yotta Zenko Arbor Brisk Cobal Delta "
    "Ember Forge Glint Haven Ivory Jolt Krait Lotus Mango Nimbo"
)
RIVERS = _words("Aare Drava Ebro Isar Loire Meuse Neisse Oder Rhone Saale Tisza Weser")
JOBS = _words("baker doctor farmer lawyer painter pilot sailor singer tailor teacher")
BIRTH_YEARS = range(1910, 1960)
"""Their last two digits and the differences between them are the same few numbers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entity:
    """A person, city or firm; `facts` maps an attribute to its value, in reading order."""

    name: str
    title: str
    facts: Mapping[str, str]

    def document(self) -> Document:
        """The passage that states every fact."""
        facts = (f"{attribute} {value}" for attribute, value in self.facts.items())
        return Document(self.title, " ".join((self.name, *facts)))


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """Entities by name; a namesake is a second, more obscure person of an already used name."""

    people: Mapping[str, Entity]
    namesakes: Mapping[str, Entity]
    places: Mapping[str, Entity]

    @classmethod
    def draw(cls, config: WorldConfig, rng: random.Random) -> Self:
        """Draw every name pair and fact; raises ValueError where the vocabulary is too small."""
        _check_vocabulary(config)
        pairs = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
        names = rng.sample(pairs, config.people)
        shared, known = names[: config.namesakes], names[config.namesakes :]
        cities, firms = rng.sample(CITIES, config.cities), rng.sample(FIRMS, config.firms)
        draw = _Draw(rng, known, cities, firms)
        people = {name: Entity(name, name, draw.person(name)) for name in names}
        namesakes = {}
        for name in shared:
            facts = draw.person(name, other_than=people[name].facts)
            namesakes[name] = Entity(name, f"{name} ({facts['job']})", facts)
        places = {name: Entity(name, name, draw.city()) for name in cities}
        places |= {name: Entity(name, name, draw.firm()) for name in firms}
        return cls(people, namesakes, places)

    def __getitem__(self, name: str) -> Entity:
        """The entity that the bare name finds: for a shared name, not the namesake."""
        return self.people[name] if name in self.people else self.places[name]

    def known_people(self) -> list[str]:
        """Names that belong to one person only; every link between entities leads to them."""
        return [name for name in self.people if name not in self.namesakes]

    def documents(self) -> list[Document]:
        """One passage per entity; the namesakes' come last."""
        parts = (self.people, self.places, self.namesakes)
        return [entity.document() for part in parts for entity in part.values()]


@dataclasses.dataclass(frozen=True, slots=True)
class _Draw:
    """Draws the facts of one entity at a time."""

    rng: random.Random
    known: list[str]
    cities: list[str]
    firms: list[str]

    def person(self, name: str, other_than: Mapping[str, str] | None = None) -> dict[str, str]:
        """Facts of a person, each different from those of `other_than`.

        A friend shares no word with the person, or the passage would outweigh a namesake's.
        """
        avoid = other_than or {}
        strangers = [other for other in self.known if not {*name.split()} & {*other.split()}]
        return {
            "born": self._pick(map(str, BIRTH_YEARS), avoid.get("born")),
            "job": self._pick(JOBS, avoid.get("job")),
            "home": self._pick(self.cities, avoid.get("home")),
            "firm": self._pick(self.firms, avoid.get("firm")),
            "friend": self._pick(strangers, avoid.get("friend")),
        }

    def city(self) -> dict[str, str]:
        """Facts of a city."""
        return {"river": self._pick(RIVERS), "mayor": self._pick(self.known)}

    def firm(self) -> dict[str, str]:
        """Facts of a firm."""
        return {"seat": self._pick(self.cities), "boss": self._pick(self.known)}

    def _pick(self, values: Iterable[str], avoid: str | None = None) -> str:
        return self.rng.choice([value for value in values if value != avoid])


def _check_vocabulary(config: WorldConfig) -> None:
    limits = {
        "people": len(FIRST_NAMES) * len(LAST_NAMES),
        "cities": len(CITIES),
        "firms": len(FIRMS),
        "namesakes": config.people - 4,
    }
    for key, limit in limits.items():
        if getattr(config, key) > limit:
            raise ValueError(f"world.{key}={getattr(config, key)} is above the {limit} available")
