"""What column names usually mean, in the spellings and languages that logs are written in."""

from __future__ import annotations

import re
import unicodedata


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AFFIXES = ("identifier", "number", "nummer", "numero", "index", "uuid", "guid", "hash", "code", "key", "idx", "num")
_SHORT_AFFIXES = ("id", "nr", "no", "pk", "fk")

USER_TIERS = (
    "user usr u benutzer nutzer usuario usuaria utilisateur utente utilizador gebruiker uzytkownik kullanici member "
    "anvandare bruger пользователь 用户 使用者 ユーザー 사용자",
    "customer cust client buyer shopper subscriber consumer reader viewer listener reviewer player person patient "
    "student learner guest profile account kunde kunden cliente klant klient mitglied membre miembro клиент "
    "покупатель 客户 顧客 고객",
    "visitor household device cookie browser anonymous fingerprint besucher visiteur visitante",
    "session visit sitzung besuch sesion sessione",
)
"""Names of user columns without their id affix, likelier ones first."""
ITEM_TIERS = (
    "item itm i",
    "product prod article movie film song track video book news story content recipe course lesson job vacancy offer "
    "listing property hotel restaurant business poi venue show episode podcast photo image post tweet pin ad creative "
    "game app produkt produto producto produit prodotto artikel articulo articolo artigo pelicula livre buch lied "
    "товар продукт статья фильм 商品 物品 製品 映画 电影 상품",
    "sku asin isbn ean gtin upc barcode stock parentasin",
    "artist album page url document doc brand",
)
"""Names of item columns without their id affix, likelier ones first."""
_NEEDS_AFFIX = _words(
    "account profile person device browser session visit content story property business show photo image post ad "
    "creative page document doc brand job course lesson offer game app venue news pin stock player guest"
)
"""Words that mean an id only with an affix: `device` may say "mobile", `device_id` does not."""

TIME_TIERS = (
    "timestamp timestmp datetime ts eventtime unixtime zeitstempel horodatage marcadetiempo 时间戳",
    "time created occurred zeit uhrzeit hora heure tiempo ora tijd время 时间 時刻",
    "date day datum fecha data dia jour giorno дата 日期 日付",
    "updated modified changed inserted loaded processed",
)
"""Words in names of time columns, likelier ones first."""
ORDER_NAMES = _words("t time ts timestamp step seq sequence sequencenumber eventnumber")
"""Names of columns that order events though their numbers are no times."""
RATING_WORDS = _words(
    "rating ratings rate stars star score overall grade r preference bewertung note nota puntuacion calificacion "
    "valoracion valutazione avaliacao оценка рейтинг 评分 評価 평점"
)
TYPE_NAMES = _words(
    "event eventtype eventname action actiontype activity behavior behaviour behaviortype interaction interactiontype "
    "feedbacktype type aktion accion"
)
"""Names of columns that say in words what happened."""
STRENGTH = {
    word: level
    for level, words in enumerate(
        (
            "impression impressions show shown exposure exposed display",
            "view viewed pv pageview detail detailview visit seen",
            "click clicked open opened play played listen watch start",
            "like liked fav favorite favourite bookmark save saved share follow wishlist download",
            "cart addtocart atc addcart basket checkout",
            "purchase purchased buy bought order ordered transaction conversion subscribe sale paid install",
        )
    )
    for word in words.split()
}
"""Kinds of events by how much they say: an impression says least, a purchase most."""
LABEL_WORDS = _words(
    "label target y outcome response success engaged engagement converted convert conv complete completed finish "
    "finished comment commented forward enter signup signedup reply replied repost retweet upvote apply applied booked "
    "booking read love loved income churn klick geklickt kauf gekauft bestellt clic achat achete compra comprado click "
    "clique клик покупка 点击 购买 喜欢"
) | {word for word, level in STRENGTH.items() if level > 0}
NEGATIVE_WORDS = _words(
    "hate dislike disliked skip skipped bounce bounced unsubscribe unsubscribed return returned refund refunded report "
    "reported block blocked hide hidden downvote churn churned cancel cancelled canceled complaint spam unfollow"
)
AFTER_WORDS = _words(
    "duration dwell play playtime watch watchtime stay spent progress completion percent review amount revenue "
    "quantity qty total paid payment tip comment feedback reaction sentiment helpful helpfulness verified vote votes "
    "listened played menge betrag umsatz cantidad quantite montant"
)
"""Words of columns that are written when the event has happened."""
BEFORE_WORDS = _words(
    "device platform os browser channel page tab position slot rank placement country city region state language "
    "locale hour hourmin weekday dow month day season weekend holiday campaign source medium referrer network store "
    "shop app version query category screen experiment variant arm hourofday geraet land stadt mobile premium "
    "guest promo discount logged gift"
)
"""Words of columns that describe the moment before anything happens."""
TOTAL_WORDS = _words(
    "cnt count counts views clicks likes purchases sales plays downloads ctr cvr popularity votes ratings reviews "
    "trending bestseller"
)
"""Words of columns of users and items that add up what happened, perhaps after the cut."""
VISIT_WORDS = _words("session visit order invoice transaction basket cart request impression row event line")
"""With an id affix: columns that number single events or visits."""
TITLE_WORDS = _words(
    "title name headline titel titre titulo titolo naam nom nombre nome bezeichnung название 名称 タイトル"
)
WEIGHT_NAMES = _words("weight sampleweight instanceweight fnlwgt caseweight")
POSITIVE_ANSWERS = _words("yes y true t 1 ja j oui o si sí s sim positive success да 是")
NEGATIVE_ANSWERS = _words("no n false f 0 nein non nao não negative failure нет 否")


def plain(name: str) -> str:
    """A name in small letters and digits alone, accents dropped: `User-ID` -> `userid`."""
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    return "".join(letter for letter in decomposed if letter.isalnum())


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name: `isClick_2` -> `is`, `click`, `2`."""
    parted = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3 \2\4", name)
    return tuple(word for part in re.split(r"[\W_]+", parted) if (word := plain(part)))


def stem(name: str) -> tuple[str, bool]:
    """A name without what marks an id, and whether it was marked: `customerNumber` -> `customer`, True."""
    joined, words = plain(name), words_of(name)
    for affix in _AFFIXES + _SHORT_AFFIXES:
        if len(words) > 1 and words[-1] == affix:
            return "".join(words[:-1]), True
        if len(words) > 1 and words[0] == affix:
            return "".join(words[1:]), True
    for affix in (*_AFFIXES, "id", "nr"):  # written in one word: userid, itemidx, idusuario
        if joined.endswith(affix) and len(joined) > len(affix):
            return joined.removesuffix(affix), True
    return (joined.removeprefix("id"), True) if joined.startswith("id") and len(joined) > 2 else (joined, False)


def id_rank(name: str, tiers: tuple[str, ...]) -> tuple[int, bool] | None:
    """How well a name says "id of this": (tier, whether its id affix is missing), less is better; None if it does not.

    Args:
        name: column name.
        tiers: `USER_TIERS` or `ITEM_TIERS`.
    """
    for base, marked in {stem(name), (plain(name), False)}:
        for tier, words in enumerate(tiers):
            if base in words.split() and (marked or base not in _NEEDS_AFFIX):
                return tier, not marked
    return None


def time_rank(name: str) -> int | None:
    """Which tier of `TIME_TIERS` a name belongs to; None when nothing in it speaks of time."""
    words, joined = words_of(name), plain(name)
    ranks = [
        tier
        for tier, known in enumerate(TIME_TIERS)
        for word in known.split()
        if word in words or (len(word) > 3 and (joined.endswith(word) or joined.startswith(word)))
    ]
    return max(ranks, default=None) if "updated" in words or "modified" in words else min(ranks, default=None)


def says(name: str, known: frozenset[str]) -> bool:
    """Whether a word of the name, or the whole of it without `is` or `has`, is among the known ones."""
    joined = plain(name)
    return (
        bool(set(words_of(name)) & known) or joined in known or joined.removeprefix("is").removeprefix("has") in known
    )
