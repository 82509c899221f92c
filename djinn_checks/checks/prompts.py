"""The built-in prompts: 30 texts from one word to several hundred tokens, in order of length.

Short questions, code, tables, arithmetic, other languages and long prose, so that many different rows of the
embedding and many positions of the cache are used. The long ones are joined from passages.
"""

from __future__ import annotations

from typing import Any

from djinn_checks.errors import ParamsError

_SHORT = (
    "Hello",
    "The capital of France is",
    "2 + 2 = 4, 4 + 4 = 8, 8 + 8 =",
    "Translate to German: the cat sleeps on the warm stove.",
    "def fibonacci(n: int) -> int:\n    ",
    "What is PCI Express, and what is it used for?",
    "Once upon a time there was a lighthouse keeper who",
    "SELECT name, COUNT(*) FROM orders JOIN customers USING (customer_id)",
    "List three differences between a process and a thread:\n1.",
    '{"name": "Ada", "born": 1815, "fields": ["mathematics", "computing"], "died":',
    "Le train entre en gare à huit heures, et les voyageurs descendent sur le quai sous la pluie.",
    "Q: A train travels 60 km in 45 minutes. What is its average speed in km/h?\nA: Let us think step by step.",
    "Roses are red, violets are blue,\nthe cache has been flushed\nand the registers too.\nThe pointer I followed",
    "Die Donaudampfschifffahrtsgesellschaft betrieb um 1880 mehr als zweihundert Dampfer und siebenhundert Schlepper.",
)

_PASSAGES = (
    "A ring buffer is a block of memory in which the end is joined to the beginning. A writer puts new records "
    "behind the last one, a reader takes the oldest, and neither ever moves what the other holds. When the writer "
    "catches up with the reader it must wait, or drop something; which of the two is right depends on whether a "
    "late record is worth more than a fresh one.",
    "The harbour was quiet at that hour. Two cranes stood over the water with their hooks drawn up, and a man in a "
    "yellow coat walked the length of the quay, counting the bollards as if one might have been stolen in the night. "
    "At the far end he turned, lit his pipe, and looked for a long time at the place where the ferry should have been.",
    "import heapq\n\n\ndef shortest_path(graph, start, goal):\n    queue = [(0, start, [start])]\n    seen = set()\n"
    "    while queue:\n        cost, node, path = heapq.heappop(queue)\n        if node == goal:\n"
    "            return cost, path\n        if node in seen:\n            continue\n        seen.add(node)\n"
    "        for neighbour, weight in graph[node].items():\n"
    "            heapq.heappush(queue, (cost + weight, neighbour, path + [neighbour]))\n    return None\n",
    "Photosynthesis takes place in two stages. In the first, light strikes chlorophyll, water is split, and oxygen "
    "leaves the leaf; the energy is kept for a moment in two small molecules. In the second, which needs no light, "
    "those molecules pay for the building of sugar out of carbon dioxide. A plant in the dark goes on with the "
    "second stage for as long as its savings last, and then it stops.",
    "| month | rain (mm) | sun (h) | visitors |\n|---|---|---|---|\n| January | 62 | 48 | 1,204 |\n"
    "| February | 51 | 71 | 1,377 |\n| March | 58 | 124 | 2,050 |\n| April | 44 | 181 | 3,918 |\n"
    "| May | 63 | 214 | 5,266 |\n| June | 77 | 226 | 7,431 |\n"
    "The table shows that the number of visitors grows with the hours of sun, although June was wetter than May.",
    "Proof. Suppose that there were only finitely many primes p1, p2, ..., pn. Let N be their product plus one. No pi "
    "divides N, since it would then divide one. But N is larger than one and so has some prime divisor, which is "
    "none of the pi. This contradicts the assumption that the list was complete, hence there are infinitely many "
    "primes. The same idea, with a little more care, shows that infinitely many of them leave the remainder three "
    "when divided by four.",
    "Dear Mrs Okafor, thank you for your letter of the 14th. We have looked into the matter of the missing parcel and "
    "found that it was delivered to number 41 instead of number 14, where it was accepted by a neighbour who has "
    "since gone on holiday. We have written to him and expect an answer within a week. Meanwhile we are sending you "
    "a second one at our own expense; please let us know when it has arrived.",
    "To bake the bread, mix 500 g of flour with 350 g of water, 10 g of salt and a little yeast, and leave it covered "
    "for an hour. Fold the dough over itself four times, wait thirty minutes, and fold it again. Shape it, let it "
    "rise in a cold place overnight, and bake it in the morning in a closed iron pot, half an hour with the lid on "
    "and a quarter of an hour without. It is done when it sounds hollow.",
)

_LONG = (
    *((passage,) for passage in range(8)),
    (0, 3),
    (1, 6),
    (2, 5),
    (7, 4, 0),
    (6, 1, 3),
    (5, 2, 0, 4),
    (3, 7, 6, 1, 0),
    (0, 1, 2, 3, 4, 5, 6, 7),
)

PROMPTS = tuple(sorted((*_SHORT, *("\n\n".join(_PASSAGES[i] for i in picked) for picked in _LONG)), key=len))
"""The 30 built-in prompts, shortest first."""


def select_prompts(prompts: int | list[str]) -> tuple[str, ...]:
    """Return so many of the built-in prompts, spread evenly over their lengths, or the caller's own.

    One prompt is the middle one; from two on, the shortest and the longest are among them.

    Raises:
        ParamsError: more were asked for than there are, or one of the caller's is empty.
    """
    if isinstance(prompts, int):
        return tuple(PROMPTS[place] for place in _spread(prompts))
    for index, prompt in enumerate(prompts):
        if not prompt.strip():
            raise ParamsError(f"prompts: prompt {index} is empty; every prompt needs at least one token")
    return tuple(prompts)


def check_room(model: Any, tokens: int, remedy: str) -> None:
    """Refuse a sequence that is longer than the model has positions for.

    Args:
        model: `djinn_checks.models.open.Model`.
        tokens: of the sequence, those that are decoded included.
        remedy: which parameter to give, and how large it may be at most.

    Raises:
        ParamsError: it has fewer.
    """
    if model.positions is not None and tokens > model.positions:
        raise ParamsError(f"a sequence of {tokens} tokens: {model.name} has {model.positions} positions; {remedy}")


def _spread(count: int) -> list[int]:
    last = len(PROMPTS) - 1
    if not 1 <= count <= len(PROMPTS):
        raise ParamsError(f"prompts: expected 1 to {len(PROMPTS)} built-in prompts, got {count}")
    return [last // 2] if count == 1 else [round(place * last / (count - 1)) for place in range(count)]
