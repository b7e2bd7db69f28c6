"""What follows from a sentence for who knows the world, without a content word in common.

In NoLiMa's manner (arXiv 2502.05167): who has been to Berlin? The one who stood below the
Brandenburg Gate.
"""

from __future__ import annotations

from dataclasses import dataclass

from ov_kvcrush.evaluation.suites.generating.prose import words_of


@dataclass(frozen=True)
class Association:
    """A sentence about a {person}, and what is true of that person alone.

    Attributes:
        sentence: which a text has.
        predicate: of a question, such as ``has been to Berlin``.
    """

    sentence: str
    predicate: str

    @property
    def question(self) -> str:
        """The question to which that person is the answer."""
        return f"Which person in the text {self.predicate}?"


# Words of questions that say nothing about what is asked.
_FUNCTION_WORDS = frozenset(
    ["a", "an", "been", "has", "in", "is", "must", "person", "text", "the", "to", "which"]
)


def content_words(text: str) -> set[str]:
    """The words of ``text`` that say what it is about, in small letters."""
    return set(words_of(text)) - _FUNCTION_WORDS


def _travel(sentence: str, place: str) -> Association:
    return Association(sentence, f"has been to {place}")


ASSOCIATIONS = (
    _travel("{person} waited for a friend below the Brandenburg Gate.", "Berlin"),
    _travel("{person} climbed the Eiffel Tower on foot.", "Paris"),
    _travel("{person} sketched the Taj Mahal on a paper napkin.", "Agra"),
    _travel("One rainy morning {person} queued at the Sagrada Familia.", "Barcelona"),
    _travel("{person} crossed the Golden Gate Bridge on a bicycle.", "San Francisco"),
    _travel("{person} lost a hat on the ferry to the Statue of Liberty.", "New York"),
    _travel("{person} once sang on the steps of the Kremlin.", "Moscow"),
    _travel("{person} heard an opera in the famous hall on Sydney's harbor.", "Australia"),
    _travel("{person} lay in the sun on the Copacabana for a week.", "Brazil"),
    _travel("{person} saw the sun rise over Machu Picchu.", "Peru"),
    _travel("{person} sat among the columns of the Parthenon until dusk.", "Athens"),
    _travel("{person} fed the gulls beside the Little Mermaid's rock.", "Copenhagen"),
    _travel("{person} counted the faces carved at Angkor Wat.", "Cambodia"),
    _travel("{person} took the lift to the top of the Burj Khalifa.", "Dubai"),
    _travel("{person} keeps a stone from the summit of Mount Fuji.", "Japan"),
    _travel("{person} walked through the Forbidden City in the snow.", "Beijing"),
    _travel("{person} rode a camel around the pyramids of Giza.", "Egypt"),
    _travel("{person} gazed up at the dome of the Hagia Sophia.", "Istanbul"),
    _travel("{person} flew a kite on Table Mountain.", "Cape Town"),
    _travel("{person} spent an afternoon before the Night Watch in the Rijksmuseum.", "Amsterdam"),
    _travel("{person} laughed at the Manneken Pis for being so small.", "Brussels"),
    _travel("{person} got lost in the gardens of Schoenbrunn.", "Vienna"),
    _travel("{person} leaned backwards and kissed the Blarney Stone.", "Ireland"),
    _travel("{person} ate custard tarts in the shadow of the Tower of Belem.", "Lisbon"),
    _travel("{person} had dinner in the Space Needle.", "Seattle"),
    _travel("{person} followed the herds across the Serengeti in a jeep.", "Tanzania"),
    _travel("{person} measured the shadow of a serpent at Chichen Itza.", "Mexico"),
    _travel("{person} bathed in hot springs an hour from Reykjavik.", "Iceland"),
    _travel("{person} rowed down a fjord behind Bergen.", "Norway"),
    _travel("{person} swam in the pool on the roof of Marina Bay Sands.", "Singapore"),
    Association("Bread and pasta make {person} ill.", "must avoid gluten?"),
    Association(
        "{person} pays for milk and cheese with a sore stomach.",
        "is lactose intolerant",
    ),
    Association(
        "{person} has touched neither meat nor fish for years.",
        "is a vegetarian",
    ),
    Association(
        "{person} fills cavities and fits crowns in a small practice.",
        "is a dentist",
    ),
    Association("{person} lands an airliner in Toronto every week.", "is a pilot?"),
    Association("{person} performed Chopin on an old Steinway.", "is a pianist?"),
    Association(
        "{person} frees figures from marble with a chisel.",
        "is a sculptor",
    ),
    Association("{person} follows comets through a telescope.", "is an astronomer?"),
    Association(
        "{person} collects fines for books that are returned late.",
        "is a librarian",
    ),
    Association(
        "{person} lost a rook and both bishops on Thursday.",
        "plays chess",
    ),
    Association("{person} gathers honey from four hives.", "is a beekeeper?"),
    Association(
        "{person} ran out at the sight of eight thin legs and a web.",
        "fears spiders",
    ),
    Association(
        "{person} will not enter lifts or other tiny rooms.",
        "is claustrophobic",
    ),
    Association("{person} injects insulin before each meal.", "is diabetic?"),
    Association(
        "{person} ran forty-two kilometers without a rest.",
        "finished a marathon",
    ),
    Association("{person} scored from the penalty spot.", "is a soccer player?"),
    Association(
        "{person} presses grapes and fills barrels in autumn.",
        "is a winemaker",
    ),
    Association(
        "{person} lifts the baton, and eighty violins begin.",
        "is a conductor",
    ),
    Association(
        "{person} hammers horseshoes over glowing coals.",
        "is a blacksmith",
    ),
    Association(
        "{person} circled the globe weightless for six months.",
        "is an astronaut",
    ),
)
