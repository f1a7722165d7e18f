"""Word problems of the demo model's domain, written by a small grammar.

In: a random generator. Out: a `Problem` whose text determines every operation and operand.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from arithmetic import LIMIT, Line, Problem, Ref, calculate

NAMES = (
    ("Tom", "He", "him"), ("Anna", "She", "her"), ("Ben", "He", "him"), ("Mia", "She", "her"),
    ("Sam", "He", "him"), ("Lily", "She", "her"), ("James", "He", "him"), ("Maria", "She", "her"),
    ("Jack", "He", "him"), ("Emma", "She", "her"), ("John", "He", "him"), ("Sara", "She", "her"),
    ("Peter", "He", "him"), ("Julie", "She", "her"), ("David", "He", "him"), ("Lisa", "She", "her"),
)  # fmt: skip
ITEMS = (
    "apples", "books", "marbles", "stickers", "cookies", "pencils", "cards", "eggs", "flowers", "coins",
    "shells", "stamps", "balloons", "oranges", "toys", "candies", "beads", "stones", "cups", "tickets",
)  # fmt: skip
BOXES = (("boxes", "box"), ("bags", "bag"), ("baskets", "basket"), ("packs", "pack"), ("jars", "jar"))
TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}

EVENTS = {
    "+": (
        "{he} buys {n} more.", "{he} finds {n} more {items}.", "A friend gives {him} {n} {items}.",
        "{he} gets {n} more {items}.", "Then {name} wins {n} {items}.",
    ),
    "-": (
        "{he} gives away {n}.", "{he} loses {n} of them.", "{he} sells {n} {items}.",
        "{he} uses {n} of the {items}.", "Then {name} drops {n} {items}.",
    ),
    "*": ("Then the number of {items} grows to {times} what it was.", "{he} ends up with {times} as many {items}."),
    "/": ("{he} splits them into {n} equal piles and keeps one pile.", "{he} keeps one of {n} equal shares."),
}  # fmt: skip
HALF = ("{he} keeps half of them.", "{he} gives half of the {items} away.")
NOW = (
    "{name} now has {{e}} {items}.",
    "{he} has {{e}} {items}.",
    "That makes {{e}}.",
    "{{e}} {items}.",
    "Now there are {{e}} {items}.",
)


def pick(rng: random.Random, high: int = LIMIT // 2) -> int:
    """A number from 2 to `high`, small ones more often."""
    return rng.randint(2, rng.choice((12, 30, max(30, high // 2), high)))


def chain(rng: random.Random) -> Problem | None:
    """One person's count, changed by two to four events."""
    name, he, him = rng.choice(NAMES)
    items = rng.choice(ITEMS)
    words = {"name": name, "he": he, "him": him, "items": items}
    total = start = pick(rng)
    sentences = [f"{name} has {start} {items}."]
    lines: list[Line] = []
    numbers = [start]
    for i in range(rng.randint(2, 4)):
        op = rng.choice("++--*/")
        n = rng.randint(2, 6) if op in "*/" else pick(rng, LIMIT // 3)
        result = calculate(total, op, n)
        if not result:
            return None
        events = HALF if op == "/" and n == 2 and rng.random() < 0.6 else EVENTS[op]
        times = TIMES.get(n, f"{n} times") if rng.random() < 0.7 else f"{n} times"
        sentences.append(rng.choice(events).format(n=n, times=times, **words))
        lines.append(Line(rng.choice(NOW).format(**words), Ref(i - 1) if i else start, op, n))
        numbers.append(n)
        total = result
    sentences.append(rng.choice((f"How many {items} does {name} have now?", f"How many {items} are there in the end?")))
    return Problem(" ".join(sentences), tuple(lines), tuple(numbers))


def compare(rng: random.Random) -> Problem | None:
    """Three people, each count told by an earlier one; then the sum."""
    people = rng.sample(NAMES, 3)
    items = rng.choice(ITEMS)
    first = pick(rng, LIMIT // 4)
    sentences = [f"{people[0][0]} has {first} {items}."]
    lines: list[Line] = []
    numbers = [first]
    for i in (1, 2):
        other = rng.randrange(i)
        op = rng.choice("+-**/")
        n = rng.randint(2, 5) if op in "*/" else pick(rng, LIMIT // 4)
        name, base = people[i][0], people[other][0]
        told = {
            "+": f"{name} has {n} more {items} than {base}.",
            "-": f"{name} has {n} fewer {items} than {base}.",
            "*": f"{name} has {TIMES.get(n, f'{n} times')} as many {items} as {base}.",
            "/": f"{base} has {TIMES.get(n, f'{n} times')} as many {items} as {name}.",
        }
        sentences.append(told[op])
        lines.append(Line(f"{name} has {{e}} {items}.", Ref(other - 1) if other else first, op, n))
        numbers.append(n)
    sentences.append(f"How many {items} do they have {rng.choice(('in all', 'together', 'altogether'))}?")
    lines.append(Line(f"{people[0][0]} and {people[1][0]} have {{e}}.", first, "+", Ref(0)))
    lines.append(
        Line(rng.choice(("All three have {e}.", "Together they have {e} " + items + ".")), Ref(2), "+", Ref(1))
    )
    return Problem(" ".join(sentences), tuple(lines), tuple(numbers))


def packs(rng: random.Random) -> Problem | None:
    """Two kinds of containers, their sum, and what is left or what it costs."""
    name, he, _ = rng.choice(NAMES)
    items = rng.choice(ITEMS)
    (many1, one1), (many2, one2) = rng.sample(BOXES, 2)
    n, k, m, j = (rng.randint(2, 14) for _ in range(4))
    sentences = [
        f"{name} has {n} {many1} with {k} {items} in each {one1} and {m} {many2} with {j} {items} in each {one2}."
    ]
    lines = [
        Line(f"The {many1} hold {{e}} {items}.", n, "*", k),
        Line(f"The {many2} hold {{e}} {items}.", m, "*", j),
        Line(f"That is {{e}} {items}.", Ref(0), "+", Ref(1)),
    ]
    numbers = [n, k, m, j]
    if rng.random() < 0.6:
        gone = pick(rng, 100)
        sentences.append(f"{he} {rng.choice(('gives away', 'sells', 'loses', 'uses'))} {gone} of them.")
        lines.append(Line(rng.choice(("So {e} are left.", f"{he} has {{e}} {items} left.")), Ref(2), "-", gone))
        numbers.append(gone)
    sentences.append(f"How many {items} does {name} have{' left' if len(lines) == 4 else ''}?")
    return Problem(" ".join(sentences), tuple(lines), tuple(numbers))


def shopping(rng: random.Random) -> Problem | None:
    """Two kinds of goods at a price each, and the change."""
    name, he, _him = rng.choice(NAMES)
    first, second = rng.sample(ITEMS, 2)
    n, p, m, q = (rng.randint(2, 12) for _ in range(4))
    paid = rng.choice((50, 100, 150, 200, 250, 300, 400, rng.randint(40, LIMIT)))
    question = (
        f"{name} buys {n} {first} for ${p} each and {m} {second} for ${q} each. {he} pays with ${paid}. "
        f"How much money does {he.lower()} get back?"
    )
    lines = (
        Line(f"The {first} cost {{e}} dollars.", n, "*", p),
        Line(f"The {second} cost {{e}} dollars.", m, "*", q),
        Line(rng.choice(("Together they cost {e} dollars.", "The total is {e} dollars.")), Ref(0), "+", Ref(1)),
        Line(rng.choice((f"{he} gets {{e}} dollars back.", "The change is {e} dollars.")), paid, "-", Ref(2)),
    )
    return Problem(question, lines, (n, p, m, q, paid))


def sharing(rng: random.Random) -> Problem | None:
    """A sum, packed into equal bags, each sold at a price."""
    name, he, _ = rng.choice(NAMES)
    items = rng.choice(ITEMS)
    bags, each, price = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 15)
    had = rng.randint(1, bags * each - 1)
    more = bags * each - had
    (many, one) = rng.choice(BOXES)
    question = (
        f"{name} has {had} {items} and buys {more} more. {he} packs {each} {items} in each {one} "
        f"and sells every {one} for ${price}. How much money does {name} make?"
    )
    lines = (
        Line(f"{name} has {{e}} {items}.", had, "+", more),
        Line(f"That fills {{e}} {many}.", Ref(0), "/", each),
        Line(rng.choice((f"{he} makes {{e}} dollars.", "That brings {e} dollars.")), Ref(1), "*", price),
    )
    return Problem(question, lines, (had, more, each, price))


def reading(rng: random.Random) -> Problem | None:
    """So much a day for some days, out of a total, the rest at another pace."""
    name, he, _ = rng.choice(NAMES)
    a_day, days, then, more = rng.randint(2, 30), rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 20)
    total = a_day * days + then * more
    thing, verb = rng.choice((("pages", "reads"), ("miles", "drives"), ("bricks", "lays"), ("rows", "knits")))
    question = (
        f"{name} must do {total} {thing}. {he} {verb} {a_day} {thing} a day for {days} days. "
        f"The rest is done in {then} days. How many {thing} a day is that?"
    )
    lines = (
        Line(f"{he} {verb} {{e}} {thing}.", a_day, "*", days),
        Line(rng.choice((f"{{e}} {thing} are left.", "The rest is {e}.")), total, "-", Ref(0)),
        Line(f"That is {{e}} {thing} a day.", Ref(1), "/", then),
    )
    return Problem(question, lines, (total, a_day, days, then))


FAMILIES: tuple[Callable[[random.Random], Problem | None], ...] = (
    chain, chain, chain, compare, compare, packs, shopping, sharing, reading,
)  # fmt: skip


def story(rng: random.Random) -> Problem:
    """A problem of a random family, every number and result within the domain."""
    while True:
        problem = rng.choice(FAMILIES)(rng)
        if problem and _stays_inside(problem):
            return problem


def _stays_inside(problem: Problem) -> bool:
    values: list[int] = []
    for line in problem.lines:
        a, b = (values[x.line] if isinstance(x, Ref) else x for x in (line.a, line.b))
        c = calculate(a, line.op, b)
        if not c:
            return False
        values.append(c)
    return True
