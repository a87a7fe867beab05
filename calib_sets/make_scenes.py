"""Write scenes.jsonl: 1,000 everyday scene prompts, put together from phrases written for this project.

Twenty domains, each with its own subjects, doings, places and details, meet a dozen sentence frames, counts, light,
weather and styles. Every phrase is used sparingly, and a prompt that shares too many word triples with an earlier one
is thrown away, so that no two are near-duplicates.

python calib_sets/make_scenes.py
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

COUNT = 1000
SEED = 41
#: Highest Jaccard overlap of word triples between any two prompts.
OVERLAP = 0.30
TARGET = Path(__file__).with_name("scenes.jsonl")

# domain: (subjects with article, doings, places, details); "|" separates phrases
DOMAINS: dict[str, tuple[str, str, str, str]] = {
    "kitchen": (
        "an old woman in a flowered apron|a father and his toddler|a young baker|a tattooed chef|a cat|twin sisters|"
        "a man with rolled-up sleeves|a nervous cooking student",
        "kneading bread dough|stirring a copper pot|slicing ripe tomatoes|reading a stained recipe book|"
        "tasting soup from a wooden spoon|rinsing cherries|icing a lopsided cake|waiting for the kettle",
        "in a sunlit farmhouse kitchen|at a marble counter|in a cramped galley kitchen|beside a blue enamel stove|"
        "in a restaurant kitchen full of steam|at a round oak table",
        "flour on every surface|garlic hanging from the beams|a radio on the windowsill|a stack of chipped plates|"
        "a bowl of lemons nearby|copper pans on the wall",
    ),
    "street": (
        "a mail carrier|a violinist in a long coat|a delivery rider|an elderly couple|a newspaper seller|"
        "a girl with a balloon|commuters with umbrellas|a window cleaner|a street sweeper",
        "crossing at the lights|haggling over a scarf|feeding pigeons|leaning against a lamp post|"
        "checking a folded map|"
        "hurrying past shop windows|waiting for a tram|tying a shoelace",
        "on a cobbled street|outside a corner bakery|under a railway bridge|on a wide city boulevard|"
        "in a narrow alley with laundry lines|in front of a brick theatre|beside a row of parked bicycles",
        "puddles reflecting neon signs|steam rising from a manhole|posters peeling from the wall|"
        "a yellow taxi turning the corner|fallen leaves in the gutter|a striped awning overhead",
    ),
    "park": (
        "a jogger in bright shoes|a group of chess players|a nanny with a pram|a squirrel|two teenagers|a kite flyer|"
        "a golden retriever|a grandfather and grandson|a woman doing yoga",
        "resting on a green bench|racing along the gravel path|sharing an ice cream|chasing a frisbee|"
        "sketching the fountain|throwing sticks|having a picnic|listening to birds",
        "under a flowering cherry tree|near a duck pond|on a grassy hill|by an iron gate|"
        "at the edge of a rose garden|"
        "next to a bronze statue",
        "dappled shade on the lawn|a checkered blanket spread out|swans in the distance|a bandstand behind them|"
        "petals drifting down|a red kite caught in the branches",
    ),
    "beach": (
        "a lifeguard|a surfer with a cracked board|a family of five|a fisherman mending nets|"
        "a child with a plastic spade|"
        "a horse and rider|a volleyball team|a flock of gulls",
        "watching the horizon|digging a moat around a sandcastle|walking barefoot through the foam|"
        "packing up the parasol|"
        "collecting shells|running from a wave|drying off in a striped towel",
        "on a pebble beach|below white chalk cliffs|on a wide sandy shore|at the end of a wooden pier|"
        "in a quiet cove|"
        "beside an upturned rowing boat",
        "a lighthouse far away|seaweed along the tide line|sails on the bay|a storm gathering offshore|"
        "dune grass bending in the wind|crab tracks in the sand",
    ),
    "farm": (
        "a farmer in rubber boots|a brown cow and her calf|a flock of sheep|a border collie|a scarecrow|"
        "three piglets|"
        "a boy with a lantern|a rooster|a beekeeper",
        "blocking the lane|drinking from a trough|crowding around a gate|loading hay bales|looking over a stone wall|"
        "stretching in the morning light|inspecting a hive|carrying two milk cans",
        "in a muddy farmyard|on a terraced hillside|beside a red barn|in a field of sunflowers|"
        "at the edge of an orchard|"
        "near a rusty windmill",
        "mist over the valley|a tractor idling|swallows on the telephone wire|baskets of apples|crows circling above|"
        "frost on the furrows",
    ),
    "animals": (
        "a tabby kitten|a barn owl|an elephant family|a red fox|a tortoise|a parrot with a green chest|a polar bear|"
        "a pair of zebras|a hedgehog|a sleepy bulldog|a heron|a giraffe",
        "peering out of a cardboard box|standing perfectly still|bathing in a shallow river|curled up asleep|"
        "nibbling a dandelion|spreading its wings|looking straight into the camera|sniffing the air|"
        "hiding among reeds",
        "on a mossy log|beneath an acacia tree|beside a dirt road|in tall dry grass|at a watering hole|"
        "on a snowy ridge|in a backyard with a swing",
        "whiskers in sharp focus|dust hanging in the air|raindrops on its back|a butterfly overhead|"
        "long shadows across the ground|an out-of-focus forest behind",
    ),
    "food": (
        "a bowl of ramen with a soft egg|a stack of blueberry pancakes|a wooden board of cheeses|"
        "a paper cone of fries|"
        "a plate of grilled sardines|a slice of layered chocolate cake|a basket of warm croissants|"
        "a pot of lentil stew|"
        "a pizza with basil leaves|a glass of iced mint tea|a tray of painted cookies|half a watermelon",
        "served|waiting|steaming|photographed from above|arranged with care|half eaten|being passed around",
        "on a rustic table|on a white linen cloth|at a night market stall|on a diner counter|on a slate plate|"
        "in a train dining car|on a balcony railing",
        "chopsticks resting on the rim|a sprig of rosemary|crumbs scattered around|a folded blue napkin|"
        "honey dripping slowly|a candle burning low|sea salt flakes on top",
    ),
    "transport": (
        "a steam locomotive|a red double-decker bus|a rusty pickup truck|a vintage motorcycle|"
        "a small propeller plane|"
        "a canal barge|a cable car|a yellow school bus|a sailing dinghy|a bicycle with a wicker basket|a cargo ship",
        "pulling into the station|climbing a steep hill|parked|crossing a long bridge|being repaired|"
        "stuck in traffic|leaving the harbour|gliding past|turning a sharp bend",
        "beside a wheat field|in a mountain pass|in front of a glass tower|at a foggy dock|on a desert highway|"
        "along a tree-lined canal|outside a filling station from the fifties",
        "smoke curling upward|headlights cutting the fog|luggage strapped to the roof|ropes coiled on deck|"
        "a conductor waving|heat shimmering above the road|rust around the wheels",
    ),
    "home": (
        "a grey cat|a grandmother in a shawl|a teenager with headphones|a newborn and his mother|a handyman|"
        "a couple in pyjamas|a little boy in a dinosaur costume|a dog with one white ear",
        "napping|knitting a long scarf|hanging a crooked picture|building a blanket fort|watching rain on the window|"
        "wrapping presents|sorting old photographs|playing a board game",
        "in a cosy living room|on the attic stairs|on a faded persian rug|by a brick fireplace|"
        "in a bedroom with slanted walls|"
        "in a hallway full of boots",
        "bookshelves up to the ceiling|a floor lamp with a torn shade|toys all over the floor|a grandfather clock|"
        "fairy lights along the bed|a half-packed suitcase",
    ),
    "garden": (
        "a gardener with a straw hat|a robin|a ginger cat|children in raincoats|an old man with a watering can|"
        "a wheelbarrow full of pumpkins|a garden gnome|bumblebees",
        "pruning roses|standing guard over the lettuce|stealing a strawberry|planting tulip bulbs|"
        "hopping along the fence|crowding the lavender|pulling up carrots",
        "in a walled garden|inside a greenhouse|between raised beds|on a tiny rooftop terrace|under a grape arbour|"
        "beside a lily pond",
        "terracotta pots in a row|bean poles casting thin shadows|dew on spider webs|a hose coiled in the grass|"
        "ivy covering the bricks|ripe peppers in the foreground",
    ),
    "workshop": (
        "a carpenter|a watchmaker with a loupe|a blacksmith|a potter with clay on her arms|a bicycle mechanic|"
        "a violin maker|a shoemaker|a glassblower|a seamstress",
        "planing a walnut board|hammering glowing iron|shaping a tall vase|truing a wheel|threading a needle|"
        "varnishing a cello|fitting a tiny gear|stitching a leather sole|turning molten glass",
        "in a dusty workshop|at a cluttered bench|beneath a skylight|in a converted garage|by an open furnace|"
        "in a shop the width of a corridor",
        "shavings curled on the floor|tools hung in neat rows|sparks flying|sketches pinned to the wall|"
        "a transistor radio playing|jars of screws and buttons",
    ),
    "sports": (
        "a goalkeeper|a figure skater|two fencers|a rowing crew of eight|a climber in an orange helmet|a swimmer|"
        "a skateboarder|a tennis champion|an archer|a wheelchair basketball player|marathon runners|a judo master",
        "diving to the left|spinning fast|celebrating|catching her breath|chalking both hands|taking aim|"
        "landing a difficult trick|crossing the finish line|bowing to the opponent",
        "in an empty stadium|on a frozen lake|at an indoor arena|on a granite wall|in a concrete bowl|"
        "on a floodlit clay court|along a misty river",
        "breath visible in the cold|a scoreboard glowing|confetti in the air|the crowd a blur of colour|"
        "water droplets frozen in flight|a coach shouting from the side",
    ),
    "market": (
        "a spice merchant|a flower seller|a fishmonger in yellow gloves|shoppers with woven bags|"
        "a boy selling lemonade|"
        "a cheesemonger|an antiques dealer|a juggler",
        "weighing saffron|arranging peonies|holding up a silver fish|laughing with a customer|polishing a brass lamp|"
        "counting coins|offering a taste|unloading crates",
        "at a floating market|in a covered bazaar|on the town square|at a sunday flea market|in a tiled market hall|"
        "between two vegetable stalls",
        "pyramids of oranges|chalk prices on a board|coloured fabrics overhead|ice melting on the stones|"
        "strings of dried chillies|a brass scale in the foreground",
    ),
    "office": (
        "an architect|a tired accountant|a team of five|a receptionist with red glasses|a librarian|"
        "a scientist in a white coat|a radio host|a courtroom artist|a robot assistant",
        "bending over a scale model|staring at a wall of sticky notes|shelving heavy books|"
        "speaking into a microphone|"
        "labelling test tubes|sharpening pencils|whispering on the phone|watering a fern",
        "in an open-plan office|in a wood-panelled reading room|in a basement laboratory|on the fortieth floor|"
        "in a tiny recording studio|at a glass meeting table",
        "paper cups everywhere|the city spread out below|green banker's lamps|cables snaking across the carpet|"
        "a clock showing midnight|blueprints held down by mugs",
    ),
    "mountain": (
        "a lone hiker|a mountain goat|a shepherd with a crook|a rescue helicopter|a string of pack mules|two skiers|"
        "a stone chapel|a wooden hut|a suspension bridge",
        "resting above the clouds|outlined against the sky|descending a steep trail|half buried in snow|"
        "overlooking the valley|swaying slightly|following a ridge",
        "below a jagged summit|beside a turquoise glacier lake|in an alpine meadow|at the edge of a pine forest|"
        "on a narrow ledge|among giant boulders",
        "prayer flags fluttering|an eagle circling|wild crocuses in bloom|a waterfall in the background|"
        "the first star overhead|fresh footprints leading away",
    ),
    "weather": (
        "a lone oak tree|a village church|a row of beach huts|an old windmill|a country road|a football pitch|"
        "a lighthouse|a harbour town|rooftops",
        "struck by sunlight|disappearing in fog|bent by the gale|wrapped in snow|beneath a double rainbow|"
        "lit by a single flash of lightning|glistening after a downpour|baking in the heat",
        "on an open plain|at the edge of the sea|in a wide green valley|on a bare hilltop|in the far north|"
        "among rolling vineyards",
        "dark clouds piling up|a flag torn by the wind|birds flying low|icicles along the eaves|"
        "cracked earth in front|a gap of blue in the west",
    ),
    "school": (
        "a primary school class|a maths teacher|a boy with ink on his nose|a girl in a wheelchair|"
        "the school orchestra|"
        "a science club|a crossing guard|two best friends|a substitute teacher",
        "building a paper volcano|raising both hands|passing a secret note|tuning instruments|"
        "solving a long equation|"
        "queueing for lunch|planting a bean in a jar|rehearsing a play",
        "in a bright classroom|in the school gym|on the playground|at the back of the bus|in a music room|"
        "in front of a chalkboard",
        "paper stars hanging from strings|globes on the shelf|backpacks in a heap|crayon drawings on the wall|"
        "a hamster cage by the window|chairs stacked on desks",
    ),
    "music": (
        "a jazz trio|a street drummer|a harpist in a green gown|a choir of children|a punk guitarist|"
        "a pianist with white hair|a brass band|a DJ|an accordion player",
        "playing with closed eyes|tuning up|laughing between songs|taking a bow|leading a parade|"
        "practising scales|performing for nobody|reading sheet music",
        "in a smoky club|on a church balcony|in a subway tunnel|on an outdoor stage|in a ballroom with tall mirrors|"
        "at a village wedding",
        "a single spotlight|coins in an open case|red velvet curtains|dancers moving in the background|"
        "a forgotten glass on the piano|hands blurred by motion",
    ),
    "city": (
        "a skyscraper under construction|an art deco cinema|a glass footbridge|a row of painted townhouses|"
        "a neon-lit arcade|a clock tower|a rooftop pool|an empty parking garage|a tram depot|a domed observatory",
        "towering above the traffic|mirrored in the river|crowded with people|seen from a drone|deserted|"
        "covered in scaffolding|glowing from within",
        "in the old town|in a harbour district|downtown|near the botanical garden|at the end of the avenue|"
        "across from the stadium",
        "cranes on the skyline|strings of lanterns|a billboard with a smiling face|pigeons taking off|"
        "wet asphalt shining|graffiti of a whale",
    ),
    "still": (
        "a vase of wilting tulips|an antique typewriter|a chessboard in mid-game|a pair of worn ballet shoes|"
        "a jar of sea glass|a pile of old letters|a brass telescope|a broken umbrella|a painted wooden horse|"
        "a globe with faded oceans|a stack of vinyl records|a ceramic teapot",
        "left behind|catching the last light|covered with dust|neatly lined up|casting a long shadow|tipped over|"
        "seen through a rainy window",
        "on a windowsill|on a mahogany desk|on a bare concrete floor|on top of an upright piano|in a shop display|"
        "on a folded quilt|inside a glass cabinet",
        "a dead moth beside it|a curl of smoke|peeling wallpaper behind|a spilled bottle of ink|"
        "a postcard tucked underneath|one petal on the table",
    ),
}
LIGHT = (
    "at sunrise|at noon|in the golden hour|at blue hour|in warm lamplight|on an overcast day|late at night|"
    "on a hot summer afternoon|"
    "early in the morning|in early spring|on a sunday|just before closing time|in winter"
)
#: Only where there is sky.
OPEN_AIR = (
    "under a full moon|in thick fog|during a light drizzle|after heavy snowfall|on a windy autumn day|"
    "under a starry sky"
)
STYLES = (
    "watercolor of {}|oil painting of {}|pencil sketch of {}|black and white photograph of {}|"
    "{}, flat vector illustration|"
    "{}, shot on 35mm film|wide-angle photo of {}|close-up of {}|{}, in the style of a children's book|"
    "{}, isometric 3d render|charcoal drawing of {}|{}, soft pastel colors|linocut print of {}|"
    "{}, shallow depth of field|gouache illustration of {}|{}, cinematic lighting|polaroid of {}|"
    "{}, paper cut-out collage"
)
#: Domains that play under the sky.
OUTDOORS = frozenset(
    {"street", "park", "beach", "farm", "animals", "transport", "garden", "mountain", "weather", "city"}
)
#: Subjects among people that cannot do what people do there; they are only placed.
WITHOUT_HANDS = (
    "a cat|a squirrel|a golden retriever|a flock of gulls|a horse and rider|a scarecrow|a grey cat|a robin|"
    "a ginger cat|"
    "a dog with one white ear|a wheelbarrow full of pumpkins|a garden gnome|bumblebees|a mountain goat|"
    "a rescue helicopter|"
    "a string of pack mules|a stone chapel|a wooden hut|a suspension bridge|a newborn and his mother|a border collie|"
    "a brown cow and her calf|a flock of sheep|three piglets|a rooster"
)
COLORS = "crimson|teal|mustard yellow|navy blue|pale pink|emerald green|lilac|burnt orange|ivory|charcoal grey"
THINGS = (
    "umbrellas|balloons|teacups|bicycles|kites|lanterns|suitcases|rowing boats|armchairs|mugs|doors|scarves|buckets|"
    "paper boats|hot air balloons|deck chairs|ribbons|flower pots|toy cars|hats"
)
NUMBERS = "two|three|four|five|six|seven|a dozen"
#: Frames by rough length; s subject, d doing, p place, x detail, l light, and things in numbers and colours.
FRAMES = (
    "{s} {p}",
    "{s} {d}",
    "{s} {d} {p}",
    "{s} {d} {l}",
    "{s} {p}, {x}",
    "{s} {d} {p}, {x}",
    "{s} {d} {p} {l}",
    "{x}, {s} {d} {p} {l}",
    "{p2} {l}: {s} {d}, {x}",
    "{s} {d} {p} {l}, {x}, and {x2}",
    "{n} {c} {t} {p}",
    "{s} {p} with {n} {c} {t}",
    "{n} {c} {t} and {n2} {c2} {t2} {p} {l}",
    "{s} and {s2} {p}",
)
#: No phrase is used more often than this.
PHRASE_LIMIT = {"s": 9, "d": 11, "p": 12, "x": 9}


def triples(text: str) -> frozenset[tuple[str, ...]]:
    """Word triples of a prompt, ignoring case and punctuation; all words together when there are fewer than three."""
    words = "".join(ch if ch.isalnum() or ch in "'-" else " " for ch in text.lower()).split()
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset({tuple(words)})


def overlap(first: frozenset[tuple[str, ...]], second: frozenset[tuple[str, ...]]) -> float:
    """Jaccard overlap of two sets of triples."""
    return len(first & second) / len(first | second)


def prompts() -> list[str]:
    """The prompts, in the order they are drawn."""
    rng = Random(SEED)
    used: Counter[str] = Counter()
    kept: list[str] = []
    seen: list[frozenset[tuple[str, ...]]] = []
    names = list(DOMAINS)
    while len(kept) < COUNT:
        domain = names[len(kept) % len(names)]
        subjects, doings, places, details = (part.split("|") for part in DOMAINS[domain])
        pick = {
            "s": rng.choice(subjects),
            "d": rng.choice(doings),
            "p": rng.choice(places),
            "x": rng.choice(details),
        }
        if any(used[phrase] >= PHRASE_LIMIT[kind] for kind, phrase in pick.items()):
            continue
        other = rng.choice([s for s in subjects if s != pick["s"]])
        numbers, colors, things = (rng.sample(part.split("|"), 2) for part in (NUMBERS, COLORS, THINGS))
        still = {pick["s"], other} & set(WITHOUT_HANDS.split("|"))
        frame = rng.choice([f for f in FRAMES if not (still and "{d}" in f)])
        text = frame.format(
            **pick,
            s2=other,
            p2=pick["p"],
            x2=rng.choice([x for x in details if x != pick["x"]]),
            l=rng.choice((f"{LIGHT}|{OPEN_AIR}" if domain in OUTDOORS else LIGHT).split("|")),
            n=numbers[0],
            n2=numbers[1],
            c=colors[0],
            c2=colors[1],
            t=things[0],
            t2=things[1],
        )
        if rng.random() < 0.3:
            after = [style for style in STYLES.split("|") if style.startswith("{}")]
            starts_with_subject = frame.startswith(("{s}", "{n}"))
            text = rng.choice(STYLES.split("|") if starts_with_subject else after).format(text)
        mine = triples(text)
        if len(mine) < 2 or any(overlap(mine, theirs) > OVERLAP for theirs in seen):
            continue
        shown = frame.replace("{p2}", "{p}")
        used.update(phrase for kind, phrase in pick.items() if "{" + kind + "}" in shown)
        kept.append(text[0].upper() + text[1:] if rng.random() < 0.5 else text)
        seen.append(mine)
    return kept


def text() -> str:
    """The file's content."""
    header = {
        "name": "scenes",
        "source": "everyday scenes written for postdiff and put together by calib_sets/make_scenes.py",
        "licence": "Apache-2.0",
        "seed": SEED,
        "count": COUNT,
    }
    rows = [header, *({"prompt": prompt} for prompt in prompts())]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
