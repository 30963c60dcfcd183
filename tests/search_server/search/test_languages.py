"""Which texts are called foreign: never English ones, whatever names are in them."""

from __future__ import annotations

import tracemalloc

import pytest

from search_server.search.languages import names_of, unknown_language

# Names, dishes and words that English has from other languages, or shares with them.
ENGLISH = """
    dog · a cat asleep · two people kissing · Anna and Tom · Maria at the beach · Berlin ·
    Rio de Janeiro · Buenos Aires · Las Palmas · El Paso · La Paz · Notre Dame · Champs-Élysées ·
    Mont Saint-Michel · Château de Versailles · Côte d'Azur · Neuschwanstein castle in snow ·
    Unter den Linden · Sagrada Família · São Paulo skyline · Zürich · Köln cathedral · tapas ·
    croissant · crème brûlée · latte macchiato · schnitzel · jalapeño · piñata · déjà vu ·
    art nouveau · fiancé and fiancée · Leonardo da Vinci · Vincent van Gogh · Salvador Dalí ·
    Ludwig van Beethoven · José Mourinho · Beyoncé · Bayern München · kindergarten ·
    doppelgänger · die casting machine · a man in a hat · pan on a stove · plus sign ·
    sans serif font · el capitan yosemite · la la land · las vegas strip · santa claus ·
    del mar beach · van halen concert · der spiegel cover · das boot · tour de france ·
    avenue des champs elysees · jean claude van damme · plaza de toros · playa del carmen ·
    isla mujeres · zeitgeist · Rue de la Paix · Playa de las Americas · Rio de la Plata ·
    Galleria degli Uffizi · Museo Nacional del Prado · Die Hard · Rothenburg ob der Tauber ·
    Frankfurt am Main · Place de la Concorde · Moulin Rouge · Día de los Muertos · Feliz Navidad ·
    El Niño · Big Sur · MIT · Comic Con · The Met · L'Oréal · crème de la crème · femme fatale ·
    enfant terrible · cul de sac · Ludwig Mies van der Rohe · Den Haag · Malmö · Kraków ·
    İstanbul · Český Krumlov · Lech Wałęsa · Sigur Rós · I've two cats · a wizard's hat ·
    a candy cane · Schrödinger's cat in a box · IMG_2041.jpg · x = π · 50 € · 🐶 · µ
"""
FOREIGN = {
    "German": "ein hund am strand · zwei menschen küssen sich · Katze · alter Mann mit Hut",
    "French": "un chien sur la plage · un chat qui dort · voiture rouge · anniversaire · chat noir",
    "Spanish": "un perro en la playa · puesta de sol sobre el mar · cumpleaños · gato negro",
    "Italian": "un cane sulla spiaggia · due persone che si baciano · tramonto sul mare",
    "Portuguese": "duas pessoas se beijando · uma xícara de café",
    "Dutch": "een hond op het strand · zonsondergang boven zee",
    "Polish": "dwie osoby całują się · zachód słońca nad morzem",
    "Turkish": "sahilde bir köpek",
    "Finnish": "koira rannalla",
    "Hungarian": "két ember csókolózik",
    "Russian or another language in Cyrillic letters": "собака на пляже · кот",
    "Chinese or Japanese": "狗 · 海滩上的狗",
    "Japanese": "ビーチの犬 · いぬ",
    "Korean": "개 · 해변의 개",
    "Greek": "ένας σκύλος στην παραλία",
    "Arabic, Persian or Urdu": "كلب على الشاطئ",
    "Hebrew": "כלב על החוף",
    "Thai": "สุนัขบนชายหาด",
}
PAIRS = [(name, text.strip()) for name, texts in FOREIGN.items() for text in texts.split("·")]


@pytest.mark.parametrize("text", [text.strip() for text in ENGLISH.split("·")])
def test_english_queries_are_never_called_foreign(text: str) -> None:
    assert unknown_language(text, ["en"]) is None


@pytest.mark.parametrize(("name", "text"), PAIRS)
def test_other_languages_are_named(name: str, text: str) -> None:
    assert unknown_language(text, ["en-US"]) == name


@pytest.mark.parametrize("known", [[], ["mul"], ["en", "mul"]])
def test_models_that_know_many_languages_or_do_not_tell_get_no_notice(known: list[str]) -> None:
    assert all(unknown_language(text, known) is None for _, text in PAIRS)


def test_what_is_known_is_what_the_model_says() -> None:
    assert unknown_language("ein hund am strand", ["en", "de"]) is None
    assert unknown_language("海滩上的狗", ["zh"]) is None
    assert unknown_language("iPhone", ["zh"]) is None
    assert unknown_language("a dog on the beach with two people", ["zh"]) == "English"
    assert unknown_language("собака на пляже", ["zh"]) is not None
    assert unknown_language("tokyo 東京", ["en"]) is None  # a name, mostly in letters that it knows


def test_where_two_languages_are_as_likely_none_is_named() -> None:
    assert unknown_language("cavallo caballo", ["en"]) in {"another language", "Spanish"}
    assert unknown_language("neve", ["en"]) == "another language"  # Italian and Portuguese


def test_a_text_of_any_size_is_judged_by_its_beginning() -> None:
    assert unknown_language("ein hund " * 100_000, ["en"]) == "German"
    assert unknown_language("x" * 1_000_000, ["en"]) is None
    assert unknown_language("", ["en"]) is None


def test_languages_are_named_as_people_do() -> None:
    assert names_of(["en"]) == "English"
    assert names_of(["en", "de", "xx"]) == "English, German and xx"


def test_no_text_is_remembered() -> None:
    """Else a caller could tell by the time what others have searched for."""
    assert unknown_language("ein hund am strand", ["en"]) == "German"  # it has read the words
    tracemalloc.start()
    try:
        for number in range(100):
            unknown_language(f"photo {number} of a dog on a beach " * 30, ["en"])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20_000
