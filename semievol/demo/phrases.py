"""The language of the demo's support desk: the terms and phrases of tickets.

A queue's terms are in order of their frequency (draws follow Zipf's law), so a few labeled tickets show the common ones and
few of the rare ones. Many terms share words with those of another queue: a gift card, a card reader, an employee card.
A ticket asks about one matter, and may mention others that are settled, or can wait.
"""

from random import Random

_POOLS = {
    "Payment": """
        invoice|double charge|direct debit|credit card payment|bank transfer|tax number|discount code|monthly fee
        |receipt|account statement|late fee|currency conversion|purchase order|annual price|voucher|cost centre
        |payment reminder|credit note|budget limit|overdraft|sales tax|price quote|billing address|cheque
        |instalment plan|dunning letter|exchange rate|expense report|deposit|ledger entry|surcharge|bank mandate
        |gift balance|audit copy|tariff|rebate|interest charge|wire reference|fiscal year|remittance slip""",
    "Delivery": """
        parcel|delivery date|tracking link|courier|customs form|pallet|drop-off point|shipping label|missing box
        |warehouse pickup|driver|express shipment|delivery window|wrong street|parcel locker|freight cost
        |lost package|import duty|doorbell note|loading ramp|dispatch notice|postcode|container|signature on arrival
        |truck|packing list|port of entry|back order|consignment|airway bill|transit time|forwarder|depot|carton
        |van route|neighbour drop|cargo scan|waybill|crate|ferry delay""",
    "Returns": """
        refund request|exchange for a larger size|broken seal|wrong colour|warranty claim|send-back form
        |scratched item|replacement unit|restocking cost|cooling-off period|faulty article|goods sent back
        |unwanted gift|torn fabric|repair slip|store credit|opened packaging|missing accessory|inspection result
        |dented case|thirty day promise|swap for another model|chipped glass|collection of the old one|stained cover
        |proof of purchase|loose stitching|damage photo|recall notice|bent frame|cancelled order|guarantee card
        |reclamation|worn sole|second-hand piece|mismatch with the picture|crooked zip|expired product
        |trade-in offer|leaking bottle""",
    "Access": """
        password|login page|locked profile|two-factor code|email change|user role|single sign-on|security question
        |suspicious access|guest user|access token|username|permission group|recovery link|deleted member
        |fingerprint sign-in|admin right|session timeout|phishing mail|privacy setting|captcha|team invitation
        |certificate|directory sync|passkey|data export|shared mailbox|audit trail|personal pin|consent screen
        |service principal|onboarding of a colleague|hacked profile|authenticator|badge number|voice check
        |offboarding|secret key|domain check|employee card""",
    "Hardware": """
        laptop screen|keyboard|battery|printer|docking station|power cable|headset|router|mouse|charger|fan noise
        |hard disk|webcam|monitor stand|usb port|memory module|toner|touchpad|phone speaker|hinge|network switch
        |scanner glass|barcode gun|projector lamp|graphics card|overheating tablet|paper jam|loose socket
        |motherboard|antenna|server rack|microphone|status light|adapter|cooling pad|sim tray|dead pixel|fuse
        |card reader|stylus""",
    "Software": """
        mobile app|crash at start|update|error message|slow dashboard|report export|sync with the calendar
        |licence key|plugin|browser tab|search field|dark mode|installation wizard|spreadsheet import|blank page
        |api call|notification sound|language setting|macro|version number|database query|chart view|freeze on save
        |pdf viewer|beta feature|backup job|shortcut menu|broken hyperlink|template editor|cache|webhook|script
        |font rendering|drag and drop|undo step|offline mode|log file|time zone display|patch|widget""",
    "Sales": """
        price list|product demo|free trial|bulk order|upgrade to the larger plan|offer for ten more seats|reseller margin
        |quote for a renewal|meeting with your representative|feature comparison|sample unit|school discount|brochure
        |pilot project|product catalogue|annual contract offer|switch from a competitor|partner programme|volume price
        |delivery time of a new model|custom colour|opening hours of the showroom|waiting list|trade fair booth""",
    "Legal": """
        terms of service|privacy request|contract clause|copyright notice|data processing agreement|liability question
        |deletion of my personal data|trademark|lawyer's letter|signature on the contract|breach of contract|licence terms
        |tax law question|court order|consent form|export rule|accessibility statement|complaint to the regulator
        |power of attorney|retention period|patent|non-disclosure agreement|imprint|jurisdiction""",
}
QUEUES = {queue: tuple(term.strip() for term in pool.split("|")) for queue, pool in _POOLS.items()}

OPEN = (
    "I have a problem with the {}",
    "we need help with the {}",
    "the {} is not right",
    "please look at the {}",
    "there is something wrong with the {}",
    "the {} has been giving me trouble since {day}",
    "could you check the {}",
    "nobody could explain the {} to me",
    "I am stuck because of the {}",
    "since {day} the {} is a mess",
    "my question is about the {}",
    "who takes care of the {}",
    "what I need today is an answer about the {}",
    "still no news about the {}",
    "can we talk about the {} first",
    "the {} again",
)
SETTLED = (
    "the {} is fine by the way",
    "the {} was sorted out on {day}",
    "this is not about the {}",
    "you already solved the {}",
    "no need to look at the {}",
    "thanks for the quick help with the {} on {day}",
    "forget what I wrote about the {}",
    "the {} can wait until {day}",
    "a colleague will write to you about the {}",
    "last time I had trouble with the {}",
    "I asked about the {} on {day} and got my answer",
)
GREETINGS = (
    "Hello",
    "Hi team",
    "Good morning",
    "Dear support",
    "Hey there",
    "To whom it may concern",
    "Hi, {name} here",
)
CLOSINGS = (
    "Thanks, {name}",
    "Best regards, {name}",
    "Please answer soon",
    "I have been waiting since {day}",
    "Sent from my phone",
    "My number is {number}",
    "This is urgent",
    "Many thanks in advance",
    "Call me on {day}",
)
FILLERS = (
    "as I said before",
    "to be honest",
    "again",
    "and it is annoying",
    "which is odd",
    "if possible",
    "for the {number}th time",
)
NAMES = ("Ana", "Ben", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jules", "Kofi", "Lena")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "last week", "yesterday", "the weekend")


def fill(rng: Random, template: str, term: str = "") -> str:
    """Put a term and random small facts into a template."""
    return template.format(term, day=rng.choice(DAYS), name=rng.choice(NAMES), number=rng.randint(2, 99))


def zipf(rng: Random, terms: tuple[str, ...], count: int) -> list[str]:
    """Draw `count` different terms, the one of rank r with weight r ** -0.8."""
    weights = [rank**-0.8 for rank in range(1, len(terms) + 1)]
    drawn: list[str] = []
    while len(drawn) < count:
        term = rng.choices(terms, weights)[0]
        if term not in drawn:
            drawn.append(term)
    return drawn


def typos(rng: Random, text: str) -> str:
    """Swap, drop or double letters inside six words of a hundred."""
    words = text.split(" ")
    for at, word in enumerate(words):
        if len(word) < 5 or rng.random() >= 0.06:
            continue
        cut = rng.randrange(1, len(word) - 2)
        head, letter, follower, tail = (word[:cut], word[cut], word[cut + 1], word[cut + 2 :])
        words[at] = head + rng.choice((follower + letter, follower, letter + letter + follower)) + tail
    return " ".join(words)


def ticket(rng: Random, *, opened: str, settled: list[str]) -> str:
    """Return a ticket: a clause for each term in random order, sometimes with a greeting, a closing and fillers."""
    clauses = [fill(rng, rng.choice(OPEN), opened)]
    clauses += [fill(rng, rng.choice(SETTLED), term) for term in settled]
    rng.shuffle(clauses)
    clauses = [f"{c}, {fill(rng, rng.choice(FILLERS))}" if rng.random() < 0.15 else c for c in clauses]
    if rng.random() < 0.5:
        clauses.insert(0, fill(rng, rng.choice(GREETINGS)))
    if rng.random() < 0.5:
        clauses.append(fill(rng, rng.choice(CLOSINGS)))
    return typos(rng, ". ".join(c[0].upper() + c[1:] for c in clauses) + ".")
