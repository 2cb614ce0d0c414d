"""The words of the simulated world: every text that an event may carry, the same for every seed.

A pool lists the texts of one kind of event as tuples in the order of its modality's text fields. Meaning is
spread over many texts, pools share first words, and the word that tells is rarely the first.
"""

from collections.abc import Callable, Iterable
from itertools import product

Texts = tuple[tuple[str, ...], ...]

_SHOP_FIRST = (
    "Golden",
    "Corner",
    "Lucky",
    "River",
    "Old Town",
    "Green",
    "Uncle Wei",
    "Sunrise",
    "Station",
    "Happy",
)
_CITIES = ("Harbour", "Northgate", "Lakeside", "Eastfield", "Westbridge")
_PEOPLE = (
    "Chen",
    "Wang",
    "Li",
    "Zhang",
    "Liu",
    "Yang",
    "Huang",
    "Zhao",
    "Wu",
    "Zhou",
    "Xu",
    "Sun",
    "Ma",
    "Zhu",
    "Hu",
)
_GOODS = ("Shoes", "Clothing", "Watches", "Skincare", "Bags", "Audio", "Sportswear", "Homeware")
_PREMIUM = ("Maison Orlane", "Velmont", "Aurelia Paris", "Castellane", "Noir Atelier", "Bellavue")
_BUDGET = ("Daymart", "Thrifty Lane", "Yuanfang", "Basics Box", "Penny Yard", "Factory Direct")
_GENERAL = ("Cityline", "Homeway", "Nine Stars", "Everyday", "Union Plaza", "Oakfield")
_ARTISTS = ("Mira Lune", "The Paper Kites Club", "Jin Yao", "Neon Harbour", "DJ Solar", "Luo Tian Band")
_LENDERS = ("Swift Cash", "Easy Credit", "Bridge Finance", "Moonlight Loans", "Blue Pine Bank")


def _names(first: Iterable[str], last: Iterable[str]) -> list[str]:
    return [f"{a} {b}" for a, b in product(first, last)]


def _bill(direction: str, category: str, merchants: Iterable[str]) -> Texts:
    return tuple((direction, category, merchant) for merchant in merchants)


def _mini(actions: Iterable[str], programs: Iterable[str]) -> Texts:
    return tuple((program, action) for program, action in product(programs, actions))


def _app(apps: Iterable[str], actions: Iterable[str] = ("opens", "opens", "installs")) -> Texts:
    return tuple((app, action) for app, action in product(apps, actions))


def _words(texts: Iterable[str]) -> Texts:
    return tuple((text,) for text in texts)


def _bills() -> dict[str, Texts]:
    goods: Callable[[Iterable[str]], list[str]] = lambda brands: _names(brands, _GOODS)  # noqa: E731  # one line, local
    people = _names(_PEOPLE, ("Jie", "Min", "Hao"))
    return {
        "grocery": _bill(
            "pays", "food", _names(_SHOP_FIRST, ("Market", "Fresh", "Grocer", "Express Mart", "Butcher"))
        ),
        "restaurant": _bill(
            "pays", "food", _names(_SHOP_FIRST, ("Kitchen", "Noodle House", "Grill", "Tea House", "Table"))
        ),
        "takeout": _bill(
            "pays",
            "food",
            _names(_SHOP_FIRST, ("Noodle Box", "To Go", "Delivery", "Rider Meals", "Express Kitchen")),
        ),
        "budget": _bill("pays", "shopping", goods(_BUDGET)),
        "general": _bill("pays", "shopping", goods(_GENERAL)),
        "premium": _bill("pays", "shopping", goods(_PREMIUM)),
        "cinema": _bill(
            "pays", "entertainment", _names(_CITIES, ("Cinema", "Film House", "Museum", "Playhouse"))
        ),
        "stream": _bill(
            "pays", "entertainment", ("Melody Plus", "Wave Music", "Panda Video", "Series Box", "Audio Tales")
        ),
        "sport": _bill(
            "pays", "entertainment", _names(_CITIES, ("Stadium", "Swimming Hall", "Climbing Gym"))
        ),
        "gamble": _bill(
            "pays",
            "entertainment",
            ("Lucky Lotto", "Jackpot Arcade", "Dragon Spins", "Bet Corner", "Royal Cards", "Coin Pusher"),
        ),
        "concert": _bill("pays", "entertainment", [f"{a} Live {c}" for a, c in product(_ARTISTS, _CITIES)]),
        "transport": _bill(
            "pays",
            "transport",
            ("Metro", "City Bus", "Ride Now", "Bike Share", "Rail Tickets", "Fuel Stop", "Parking"),
        ),
        "travel": _bill(
            "pays",
            "travel",
            _names(("Cloud Air", "Sea View Hotel", "Island Tours", "Rail Holidays"), _CITIES),
        ),
        "big": _bill(
            "pays",
            "household",
            _names(
                ("Nova", "Homeway", "Brightstone"), ("Furniture", "Appliances", "Computers", "Renovation")
            ),
        ),
        "utility": _bill(
            "pays",
            "utilities",
            ("Power Grid", "Water Works", "Broadband", "Mobile Plan", "Gas Supply", "Property Fee"),
        ),
        "salary": _bill(
            "receives",
            "income",
            _names(
                ("Delta", "Harbour", "Orchid", "Summit", "Granite"),
                ("Logistics Payroll", "Schools Payroll", "Retail Payroll", "Software Payroll"),
            ),
        ),
        "instalment": _bill("pays", "finance", [f"{x} Instalment" for x in _LENDERS]),
        "draw": _bill("receives", "finance", [f"{x} Advance" for x in _LENDERS]),
        "repay": _bill("pays", "finance", [f"{x} Repayment" for x in _LENDERS]),
        "late_fee": _bill("pays", "finance", [f"{x} Late Fee" for x in _LENDERS]),
        "receive": _bill("receives", "transfer", people),
        "send_friend": _bill("sends", "transfer", people[::2]),
        "send_own": _bill(
            "sends",
            "transfer",
            ("Own Card 1", "Own Card 2", "Own Savings", "Supplier Account", "Own Deposit"),
        ),
        "send_new": _bill(
            "sends",
            "transfer",
            (
                "New Payee A",
                "New Payee B",
                "Card Of Third Party",
                "Overseas Wallet",
                "Own Card 2",
                "Supplier Account",
            ),
        ),
        "claim": _bill("frozen", "transfer", [f"Claim By {p}" for p in people[:12]]),
        "refund": _bill("receives", "refund", goods(_GENERAL[:3])),
    }


def _mini_programs() -> dict[str, Texts]:
    return {
        "transit": _mini(("opens", "scans code in"), ("Metro Pass", "Bus Code", "Bike Share", "Parking Pay")),
        "health": _mini(("opens", "books in"), ("City Clinic", "Step Counter", "Pharmacy Near You")),
        "games": _mini(
            ("opens", "plays", "shares"),
            ("Fruit Match", "Farm Story", "Dragon Spins", "Word Duel", "Lucky Wheel"),
        ),
        "charity": _mini(
            ("opens", "donates in", "shares"), ("Community Care", "Book Drive", "Neighbour Help")
        ),
        "food_orders": _mini(
            ("opens", "browses", "orders in"), ("Noodle Box", "Rider Meals", "Meal Deals", "Late Night Bites")
        ),
        "brand_club": _mini(
            ("opens", "joins", "browses"),
            ("Velmont Club", "Maison Orlane Boutique", "Aurelia Salon", "Castellane House"),
        ),
        "tickets": _mini(
            ("opens", "browses"), ("Ticket Window", "Tour Calendar", "Fan Circle", "Stage Pass")
        ),
        "eco_visit": _mini(
            ("opens", "visits friends in"), ("Ant Grove", "Green Steps", "Recycle Point", "Carbon Diary")
        ),
        "forest": _mini(
            ("collects energy in", "waters trees in", "plants a tree in"),
            ("Ant Grove", "Grove Team", "Seedling Garden"),
        ),
        "coupon_look": _mini(
            ("opens", "collects coupon in"),
            ("Coupon Centre", "Daily Deals", "Flash Sale", "Saver Club", "Group Buy"),
        ),
        "redeem": _mini(
            ("redeems coupon in",),
            ("Coupon Centre", "Daily Deals", "Flash Sale", "Saver Club", "Group Buy", "Meal Deals"),
        ),
        "loans": _mini(
            ("opens", "applies in"), ("Credit Desk", "Swift Cash", "Moonlight Loans", "Pay Later")
        ),
        "budgeting": _mini(("opens", "plans in"), ("Budget Book", "Repayment Planner", "Savings Pot")),
    }


def _pages() -> dict[str, Texts]:
    return {
        "p_home": _words(
            (
                "home",
                "wallet overview",
                "messages",
                "settings",
                "scan and pay",
                "news feed",
                "bill history",
                "weather card",
            )
        ),
        "p_loan": _words(
            (
                "credit limit",
                "cash advance",
                "loan calculator",
                "interest rates",
                "pay later terms",
                "borrow more",
            )
        ),
        "p_relief": _words(
            (
                "repayment calendar",
                "early repayment",
                "close the loan",
                "credit report",
                "interest rates",
                "loan calculator",
            )
        ),
        "p_security": _words(
            (
                "login devices",
                "change phone number",
                "verify identity",
                "reset password",
                "payment limit",
                "face check",
            )
        ),
        "p_ring": _words(
            (
                "verify identity",
                "payment limit",
                "raise transfer limit",
                "collection code",
                "login devices",
                "withdraw to card",
            )
        ),
        "p_shop_owner": _words(
            ("collection code", "merchant ledger", "withdraw to card", "sales today", "payment limit")
        ),
        "p_coupon": _words(
            (
                "coupon wallet",
                "deals of the day",
                "flash sale",
                "price comparison",
                "new coupons",
                "coupon terms",
            )
        ),
        "p_points": _words(
            (
                "points mall",
                "expired coupons",
                "mute deal alerts",
                "coupon wallet",
                "points history",
                "coupon terms",
            )
        ),
        "p_brand": _words(
            ("designer week", "new arrivals boutique", "member lounge", "gift wrapping", "limited edition")
        ),
        "p_ticket": _words(("tour dates", "seat map", "presale", "artist page", "fan club", "ticket resale")),
        "p_glow": _words(
            ("fan photos", "artist page", "concert video", "fan club", "lyrics of the day", "seat map")
        ),
        "p_food": _words(
            ("meals nearby", "track the rider", "menu of the day", "restaurant reviews", "late night menu")
        ),
        "p_cook": _words(("recipes", "seasonal vegetables", "market prices", "kitchen tips")),
        "p_eco": _words(
            ("energy ranking", "green calendar", "tree certificate", "walking steps", "recycling guide")
        ),
        "p_help": _words(
            (
                "help centre",
                "complaint form",
                "fee schedule",
                "contact service",
                "export data",
                "account closing terms",
            )
        ),
        "p_travel": _words(("flight deals", "hotel map", "visa guide", "travel insurance", "packing list")),
        "p_invest": _words(("fund ranking", "gold price", "pension savings", "portfolio", "deposit rates")),
        "p_film": _words(("film ratings", "showtimes", "series guide", "museum nights")),
        "p_game": _words(("lottery results", "arcade lobby", "game ranking", "spin of the day")),
    }


def _apps() -> dict[str, Texts]:
    return {
        "a_social": _app(("ChatBird", "Moments", "PhotoNest", "TalkTalk", "News Now")),
        "a_video": _app(("Panda Video", "Clip Stream", "Series Box")),
        "a_food": _app(("Rider Meals", "Foodie Run", "Noodle Now", "Bite Map")),
        "a_cook": _app(("Recipe Shelf", "Veg Box", "Market Basket")),
        "a_music": _app(("Wave Music", "Stage Pass", "Fan Circle", "Melody Plus", "Lyric Pocket")),
        "a_game": _app(("Dragon Spins", "Farm Story", "Royal Cards", "Block Rush")),
        "a_luxury": _app(("Velmont", "Boutique Hour", "Watch Salon", "Style Lounge")),
        "a_coupon": _app(("Deal Hunter", "Group Buy", "Saver Club", "Price Watch")),
        "a_lend": _app(("Swift Cash", "Moonlight Loans", "Payday Friend", "Easy Credit")),
        "a_budget": _app(("Budget Book", "Debt Free", "Savings Pot", "Easy Credit")),
        "a_rival": _app(("Orange Pay", "QuickWallet", "BankOne Pay", "Union Tap")),
        "a_clone": _app(
            ("Dual Space", "Number Shield", "Proxy Fast", "Remote Desk"), ("opens", "installs", "removes")
        ),
        "a_eco": _app(("Bike Share", "Plant Finder", "Walk More", "Second Hand")),
        "a_travel": _app(("Cloud Air", "Trip Map", "Hotel Finder")),
    }


def _searches() -> dict[str, Texts]:
    def ask(heads: Iterable[str], objects: Iterable[str]) -> Texts:
        return _words(_names(heads, objects))

    return {
        "q_any": ask(
            ("how to find", "where is", "opening hours of"),
            ("the post office", "city clinic", "phone repair", "car wash", "school calendar", "metro map"),
        ),
        "q_loan": ask(
            ("borrow money", "quick loan", "cash advance"),
            ("today", "without waiting", "with low income", "for rent"),
        ),
        "q_relief": ask(
            ("pay back", "finish", "lower interest on"), ("my loan", "credit card debt", "all instalments")
        ),
        "q_food": ask(
            ("order", "deliver", "late night"),
            ("noodles", "dumplings", "fried chicken", "bubble tea", "breakfast"),
        ),
        "q_cook": ask(
            ("how to cook", "recipe for", "fresh"),
            ("noodles", "dumplings", "fish soup", "breakfast", "vegetables"),
        ),
        "q_music": ask(_ARTISTS, ("tour", "tickets", "presale date")),
        "q_glow": ask(_ARTISTS, ("lyrics", "live video", "photos")),
        "q_brand": ask(_PREMIUM, ("boutique", "new season", "gift")),
        "q_deal": ask(
            ("coupon for", "cheapest", "discount on"),
            ("milk", "shoes", "phone case", "fried chicken", "skincare"),
        ),
        "q_eco": ask(
            ("how to", "points for"), ("plant a tree", "collect energy", "recycle clothes", "walk to work")
        ),
        "q_leave": ask(
            ("how to", "steps to"), ("close account", "move balance out", "cancel auto pay", "switch wallet")
        ),
        "q_trip": ask(("flights to", "hotel in", "weather in"), _CITIES),
        "q_safe": ask(
            ("how to", "why"),
            ("change phone number", "account limited", "raise transfer limit", "verify again"),
        ),
        "q_film": ask(("showtimes", "reviews of"), ("new film", "drama series", "cartoon", "museum night")),
        "q_game": ask(("lottery", "lucky spins", "arcade"), ("results", "bonus", "winning tips")),
    }


POOLS: dict[str, Texts] = _bills() | _mini_programs() | _pages() | _apps() | _searches()
