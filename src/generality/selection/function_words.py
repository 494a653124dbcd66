"""Which language a text is in, by the little words that every sentence of it has."""

from __future__ import annotations

import re
import unicodedata

_WORDS = {
    "en": "the of and to in is that it you for with was are this be not have from they which what "
    "how we can if or as at by an but there their would will my your has on he she his her do "
    "did many much than then each so some all its",
    "de": "der die und das ist nicht ein eine einen zu mit den sich auf für dem von des im auch "
    "wie wird sind oder wenn aber nach bei ich du wir sie es zum zur kann werden haben wie viele",
    "fr": "le les des et est une un du que qui dans pour pas sur au aux avec ce cette sont nous "
    "vous il elle ne se par ou je la de en combien chaque",
    "es": "el los las de que en un una es por para con del se lo su al como más pero sus este esta "
    "está son la si cada uno ellos ellas hay cuántos cuántas cuánto cuál muy",
    "it": "il di che la è per un una non con sono del della le dei nel gli alla si più anche "
    "questo lo se ne loro quanti quante quanto ogni ha nella dopo",
    "pt": "os de que da em um uma para com não por mais dos na são ao pelo você é ele ela isso das "
    "quantos cada foi",
    "nl": "de het een van en dat niet op te zijn met voor aan er om ook maar als bij wordt naar ik "
    "je wat hoeveel elke die heeft",
    "sv": "och att det som en är på av för med den inte till har ett om jag vi kan hur de varje",
    "da": "og at det som en er på af av for med den ikke til har et om jeg vi kan de hvor hver",
    "pl": "nie na się jest że jak ale po tak od za dla są przez ile czy każdy oraz który",
    "tr": "ve bir bu için ile çok daha olarak gibi kadar ama kaç her değil olan",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada adalah ke berapa setiap",
    "vi": "và là của có không được cho các một này với bao nhiêu mỗi những",
}  # fmt: skip
_LANGUAGES = {code: frozenset(words.split()) for code, words in _WORDS.items()}
_LETTERS = 4_000  # of a text that are looked at
_LEAST = 4  # little words that settle it
_SHARE = 0.1  # of all words that they must be


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of a text's language, or None where its words do not settle it.

    Counts the function words of 13 languages in Latin letters. A language other than English counts
    only with at least 4 of them, a tenth of all words, and twice as many as English has; so sums,
    code, names and short texts are None or English. Languages it does not know may be None.

    >>> language_of("What is the sum of the two numbers?")
    'en'
    >>> language_of("Quelle est la somme des deux nombres qui sont dans la liste ?")
    'fr'
    >>> language_of("for i in range(3): print(i)"), language_of("2 + 2 = 4")
    (None, None)
    """
    words = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", text[:_LETTERS]).casefold())
    counts = {code: sum(word in known for word in words) for code, known in _LANGUAGES.items()}
    least, english = max(_LEAST, _SHARE * len(words)), counts.pop("en")
    other = max(counts, key=lambda code: counts[code])
    if counts[other] >= max(least, 2 * english):
        return other
    return "en" if english >= least else None
