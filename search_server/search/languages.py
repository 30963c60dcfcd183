"""Tell whether a text is in a language that a model does not know; rather miss one than be wrong.

Letters decide first: a model of English cannot read Cyrillic ones. Among languages in Latin
letters, their most usual words decide (languages.toml). English speakers search for names of all
languages, such as "Champs-Élysées" or "Rio de Janeiro". So a text counts only if it has words that
are hardly ever parts of names. ADR 28 has the figures, and says why no library does this.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

# Longer texts are judged by their beginning.
_MOST_CHARS = 1_000
_MANY = "mul"
_OTHER = "another language"
_WORD = re.compile(r"[^\W\d_]{2,}")
_NOT_LATIN = re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff]")
# What one word of each kind says, and all hints together.
_CERTAIN, _LIKELY, _MOST_OF_HINTS = 3, 2, 2
# One letter is a word in these scripts; elsewhere it may be a symbol, such as the number pi.
_WORD_SCRIPTS = {"CJK", "HANGUL"}

# By the first word of a letter's Unicode name: what to call its writing, and who uses it.
_SCRIPTS = {
    "CJK": ("Chinese or Japanese", {"zh", "ja", "ko"}),
    "HIRAGANA": ("Japanese", {"ja"}),
    "KATAKANA": ("Japanese", {"ja"}),
    "HANGUL": ("Korean", {"ko"}),
    "CYRILLIC": (
        "Russian or another language in Cyrillic letters",
        {"ru", "uk", "bg", "sr", "be", "mk", "kk", "mn"},
    ),
    "GREEK": ("Greek", {"el"}),
    "ARABIC": ("Arabic, Persian or Urdu", {"ar", "fa", "ur", "ps"}),
    "HEBREW": ("Hebrew", {"he", "yi"}),
    "DEVANAGARI": ("Hindi or another language in its letters", {"hi", "mr", "ne"}),
    "BENGALI": ("Bengali", {"bn", "as"}),
    "TAMIL": ("Tamil", {"ta"}),
    "TELUGU": ("Telugu", {"te"}),
    "THAI": ("Thai", {"th"}),
    "ARMENIAN": ("Armenian", {"hy"}),
    "GEORGIAN": ("Georgian", {"ka"}),
}


def unknown_language(text: str, known: Sequence[str]) -> str | None:
    """Return a text's language, as people name it, if the model does not know it; else None.

    Args:
        text: Of any length.
        known: The model's languages, as BCP 47 tags; "mul": many; empty: nobody knows.
    """
    tags = {tag.partition("-")[0].lower() for tag in known}
    if not tags or _MANY in tags:
        return None
    text = text[:_MOST_CHARS].lower()
    foreign = _NOT_LATIN.findall(text)
    if foreign and 2 * len(foreign) >= sum(map(str.isalpha, text)):
        return _unknown_script(foreign, tags)
    return _unknown_words(frozenset(_WORD.findall(text)), tags)


def names_of(tags: Iterable[str]) -> str:
    """Return languages as people name them, for example "English and German"."""
    names = [_languages()[tag].name if tag in _languages() else tag for tag in tags]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _unknown_script(letters: Sequence[str], known: set[str]) -> str | None:
    scripts = [unicodedata.name(letter, "").partition(" ")[0] for letter in letters]
    script = max(scripts, key=scripts.count)
    # A script that is not listed may be that of a language that the model knows.
    name, languages = _SCRIPTS.get(script, ("", known))
    if languages & known or (len(letters) == 1 and script not in _WORD_SCRIPTS):
        return None
    return name


def _unknown_words(words: frozenset[str], known: set[str]) -> str | None:
    found = {tag for word in words for tag in _languages_of_words().get(word, ())}
    scores = {tag: _languages()[tag].score(words) for tag in found}
    best = max(scores.values(), default=0)
    if best < _CERTAIN or any(scores.get(tag, 0) >= _CERTAIN for tag in known):
        return None
    likely = [tag for tag, score in scores.items() if score == best]
    return _languages()[likely[0]].name if len(likely) == 1 else _OTHER


@cache
def _languages_of_words() -> dict[str, list[str]]:
    """Return the tags of the languages that each usual word speaks for; most words for none."""
    tags: dict[str, list[str]] = {}
    for tag, language in _languages().items():
        for word in language.sure | language.likely | language.hints:
            tags.setdefault(word, []).append(tag)
    return tags


@dataclass(frozen=True, slots=True)
class _Language:
    """The usual words of a language; languages.toml explains the three kinds."""

    name: str
    sure: frozenset[str]
    likely: frozenset[str]
    hints: frozenset[str]

    def score(self, words: frozenset[str]) -> int:
        """Return how much speaks for this language; `_CERTAIN` and more is enough."""
        hints = min(_MOST_OF_HINTS, len(words & self.hints))
        return _CERTAIN * len(words & self.sure) + _LIKELY * len(words & self.likely) + hints


@cache
def _languages() -> dict[str, _Language]:
    """Return the languages of languages.toml by their tags."""
    text = resources.files(__package__).joinpath("languages.toml").read_text("utf-8")
    return {
        tag: _Language(one["name"], *(frozenset(one[kind]) for kind in ("sure", "likely", "hints")))
        for tag, one in tomllib.loads(text).items()
    }
