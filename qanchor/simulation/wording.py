"""The words of the simulated world: every text that an event may carry, the same for every seed.

A pool lists the texts of one kind of event as tuples in the order of its modality's text fields. Meaning is
spread over many texts, pools share first words, and the telling word is rarely the first.
Lists are written as one string with commas.
"""

from itertools import product

Texts = tuple[tuple[str, ...], ...]

_SHOP_FIRST = "Golden, Corner, Lucky, River, Old Town, Green, Uncle Wei, Sunrise, Station, Happy"
_CITIES = "Harbour, Northgate, Lakeside, Eastfield, Westbridge"
_PEOPLE = "Chen, Wang, Li, Zhang, Liu, Yang, Huang, Zhao, Wu, Zhou, Xu, Sun, Ma, Zhu, Hu"
_GIVEN = "Jie, Min, Hao"
_GOODS = "Shoes, Clothing, Watches, Skincare, Bags, Audio, Sportswear, Homeware"
_PREMIUM = "Maison Orlane, Velmont, Aurelia Paris, Castellane, Noir Atelier, Bellavue"
_BUDGET = "Daymart, Thrifty Lane, Yuanfang, Basics Box, Penny Yard, Factory Direct"
_GENERAL = "Cityline, Homeway, Nine Stars, Everyday, Union Plaza, Oakfield"
_ARTISTS = "Mira Lune, The Paper Kites Club, Jin Yao, Neon Harbour, DJ Solar, Luo Tian Band"
_LENDERS = "Swift Cash, Easy Credit, Bridge Finance, Moonlight Loans, Blue Pine Bank"


def _phrases(first: str, last: str = "") -> list[str]:
    """Every item of one list, followed by every item of the other."""
    items = first.split(", ")
    return [f"{a} {b}" for a, b in product(items, last.split(", "))] if last else items


def _bill(direction: str, category: str, first: str, last: str = "") -> Texts:
    return tuple((direction, category, merchant) for merchant in _phrases(first, last))


def _acts(names: str, actions: str = "opens, opens, installs") -> Texts:
    return tuple(product(names.split(", "), actions.split(", ")))


def _texts(first: str, last: str = "") -> Texts:
    return tuple((text,) for text in _phrases(first, last))


_BILLS: dict[str, Texts] = {
    "grocery": _bill("pays", "food", _SHOP_FIRST, "Market, Fresh, Grocer, Express Mart, Butcher"),
    "restaurant": _bill("pays", "food", _SHOP_FIRST, "Kitchen, Noodle House, Grill, Tea House, Table"),
    "takeout": _bill(
        "pays", "food", _SHOP_FIRST, "Noodle Box, To Go, Delivery, Rider Meals, Express Kitchen"
    ),
    "budget": _bill("pays", "shopping", _BUDGET, _GOODS),
    "general": _bill("pays", "shopping", _GENERAL, _GOODS),
    "premium": _bill("pays", "shopping", _PREMIUM, _GOODS),
    "cinema": _bill("pays", "entertainment", _CITIES, "Cinema, Film House, Museum, Playhouse"),
    "stream": _bill("pays", "entertainment", "Melody Plus, Wave Music, Panda Video, Series Box, Audio Tales"),
    "sport": _bill("pays", "entertainment", _CITIES, "Stadium, Swimming Hall, Climbing Gym"),
    "gamble": _bill(
        "pays",
        "entertainment",
        "Lucky Lotto, Jackpot Arcade, Dragon Spins, Bet Corner, Royal Cards, Coin Pusher",
    ),
    "concert": _bill(
        "pays",
        "entertainment",
        _ARTISTS,
        "Live Harbour, Live Northgate, Live Lakeside, Live Eastfield, Live Westbridge",
    ),
    "transport": _bill(
        "pays", "transport", "Metro, City Bus, Ride Now, Bike Share, Rail Tickets, Fuel Stop, Parking"
    ),
    "travel": _bill("pays", "travel", "Cloud Air, Sea View Hotel, Island Tours, Rail Holidays", _CITIES),
    "big": _bill(
        "pays", "household", "Nova, Homeway, Brightstone", "Furniture, Appliances, Computers, Renovation"
    ),
    "utility": _bill(
        "pays", "utilities", "Power Grid, Water Works, Broadband, Mobile Plan, Gas Supply, Property Fee"
    ),
    "salary": _bill(
        "receives",
        "income",
        "Delta, Harbour, Orchid, Summit, Granite",
        "Logistics Payroll, Schools Payroll, Retail Payroll, Software Payroll",
    ),
    "instalment": _bill("pays", "finance", _LENDERS, "Instalment"),
    "draw": _bill("receives", "finance", _LENDERS, "Advance"),
    "repay": _bill("pays", "finance", _LENDERS, "Repayment"),
    "late_fee": _bill("pays", "finance", _LENDERS, "Late Fee"),
    "receive": _bill("receives", "transfer", _PEOPLE, _GIVEN),
    "send_friend": _bill("sends", "transfer", _PEOPLE, _GIVEN)[::2],
    "send_own": _bill(
        "sends", "transfer", "Own Card 1, Own Card 2, Own Savings, Supplier Account, Own Deposit"
    ),
    "send_new": _bill(
        "sends",
        "transfer",
        "New Payee A, New Payee B, Card Of Third Party, Overseas Wallet, Own Card 2, Supplier Account",
    ),
    "claim": _bill("frozen", "transfer", "Claim By Chen, Claim By Wang, Claim By Li, Claim By Zhang", _GIVEN),
    "refund": _bill("receives", "refund", "Cityline, Homeway, Nine Stars", _GOODS),
}


_MINI_PROGRAMS: dict[str, Texts] = {
    "transit": _acts("Metro Pass, Bus Code, Bike Share, Parking Pay", "opens, scans code in"),
    "health": _acts("City Clinic, Step Counter, Pharmacy Near You", "opens, books in"),
    "games": _acts("Fruit Match, Farm Story, Dragon Spins, Word Duel, Lucky Wheel", "opens, plays, shares"),
    "charity": _acts("Community Care, Book Drive, Neighbour Help", "opens, donates in, shares"),
    "food_orders": _acts(
        "Noodle Box, Rider Meals, Meal Deals, Late Night Bites", "opens, browses, orders in"
    ),
    "brand_club": _acts(
        "Velmont Club, Maison Orlane Boutique, Aurelia Salon, Castellane House", "opens, joins, browses"
    ),
    "tickets": _acts("Ticket Window, Tour Calendar, Fan Circle, Stage Pass", "opens, browses"),
    "eco_visit": _acts("Ant Grove, Green Steps, Recycle Point, Carbon Diary", "opens, visits friends in"),
    "forest": _acts(
        "Ant Grove, Grove Team, Seedling Garden", "collects energy in, waters trees in, plants a tree in"
    ),
    "coupon_look": _acts(
        "Coupon Centre, Daily Deals, Flash Sale, Saver Club, Group Buy", "opens, collects coupon in"
    ),
    "redeem": _acts(
        "Coupon Centre, Daily Deals, Flash Sale, Saver Club, Group Buy, Meal Deals", "redeems coupon in"
    ),
    "loans": _acts("Credit Desk, Swift Cash, Moonlight Loans, Pay Later", "opens, applies in"),
    "budgeting": _acts("Budget Book, Repayment Planner, Savings Pot", "opens, plans in"),
}


_PAGES: dict[str, Texts] = {
    "p_home": _texts(
        "home, wallet overview, messages, settings, scan and pay, news feed, bill history, weather card"
    ),
    "p_loan": _texts(
        "credit limit, cash advance, loan calculator, interest rates, pay later terms, borrow more"
    ),
    "p_relief": _texts(
        "repayment calendar, early repayment, close the loan, credit report, interest rates, loan calculator"
    ),
    "p_security": _texts(
        "login devices, change phone number, verify identity, reset password, payment limit, face check"
    ),
    "p_ring": _texts(
        "verify identity, payment limit, raise transfer limit, collection code, login devices, "
        "withdraw to card"
    ),
    "p_shop_owner": _texts("collection code, merchant ledger, withdraw to card, sales today, payment limit"),
    "p_coupon": _texts(
        "coupon wallet, deals of the day, flash sale, price comparison, new coupons, coupon terms"
    ),
    "p_points": _texts(
        "points mall, expired coupons, mute deal alerts, coupon wallet, points history, coupon terms"
    ),
    "p_brand": _texts("designer week, new arrivals boutique, member lounge, gift wrapping, limited edition"),
    "p_ticket": _texts("tour dates, seat map, presale, artist page, fan club, ticket resale"),
    "p_glow": _texts("fan photos, artist page, concert video, fan club, lyrics of the day, seat map"),
    "p_food": _texts("meals nearby, track the rider, menu of the day, restaurant reviews, late night menu"),
    "p_cook": _texts("recipes, seasonal vegetables, market prices, kitchen tips"),
    "p_eco": _texts("energy ranking, green calendar, tree certificate, walking steps, recycling guide"),
    "p_help": _texts(
        "help centre, complaint form, fee schedule, contact service, export data, account closing terms"
    ),
    "p_travel": _texts("flight deals, hotel map, visa guide, travel insurance, packing list"),
    "p_invest": _texts("fund ranking, gold price, pension savings, portfolio, deposit rates"),
    "p_film": _texts("film ratings, showtimes, series guide, museum nights"),
    "p_game": _texts("lottery results, arcade lobby, game ranking, spin of the day"),
}


_APPS: dict[str, Texts] = {
    "a_social": _acts("ChatBird, Moments, PhotoNest, TalkTalk, News Now"),
    "a_video": _acts("Panda Video, Clip Stream, Series Box"),
    "a_food": _acts("Rider Meals, Foodie Run, Noodle Now, Bite Map"),
    "a_cook": _acts("Recipe Shelf, Veg Box, Market Basket"),
    "a_music": _acts("Wave Music, Stage Pass, Fan Circle, Melody Plus, Lyric Pocket"),
    "a_game": _acts("Dragon Spins, Farm Story, Royal Cards, Block Rush"),
    "a_luxury": _acts("Velmont, Boutique Hour, Watch Salon, Style Lounge"),
    "a_coupon": _acts("Deal Hunter, Group Buy, Saver Club, Price Watch"),
    "a_lend": _acts("Swift Cash, Moonlight Loans, Payday Friend, Easy Credit"),
    "a_budget": _acts("Budget Book, Debt Free, Savings Pot, Easy Credit"),
    "a_rival": _acts("Orange Pay, QuickWallet, BankOne Pay, Union Tap"),
    "a_clone": _acts("Dual Space, Number Shield, Proxy Fast, Remote Desk", "opens, installs, removes"),
    "a_eco": _acts("Bike Share, Plant Finder, Walk More, Second Hand"),
    "a_travel": _acts("Cloud Air, Trip Map, Hotel Finder"),
}


_SEARCHES: dict[str, Texts] = {
    "q_any": _texts(
        "how to find, where is, opening hours of",
        "the post office, city clinic, phone repair, car wash, school calendar, metro map",
    ),
    "q_loan": _texts(
        "borrow money, quick loan, cash advance", "today, without waiting, with low income, for rent"
    ),
    "q_relief": _texts("pay back, finish, lower interest on", "my loan, credit card debt, all instalments"),
    "q_food": _texts(
        "order, deliver, late night", "noodles, dumplings, fried chicken, bubble tea, breakfast"
    ),
    "q_cook": _texts(
        "how to cook, recipe for, fresh", "noodles, dumplings, fish soup, breakfast, vegetables"
    ),
    "q_music": _texts(_ARTISTS, "tour, tickets, presale date"),
    "q_glow": _texts(_ARTISTS, "lyrics, live video, photos"),
    "q_brand": _texts(_PREMIUM, "boutique, new season, gift"),
    "q_deal": _texts("coupon for, cheapest, discount on", "milk, shoes, phone case, fried chicken, skincare"),
    "q_eco": _texts("how to, points for", "plant a tree, collect energy, recycle clothes, walk to work"),
    "q_leave": _texts("how to, steps to", "close account, move balance out, cancel auto pay, switch wallet"),
    "q_trip": _texts("flights to, hotel in, weather in", _CITIES),
    "q_safe": _texts(
        "how to, why", "change phone number, account limited, raise transfer limit, verify again"
    ),
    "q_film": _texts("showtimes, reviews of", "new film, drama series, cartoon, museum night"),
    "q_game": _texts("lottery, lucky spins, arcade", "results, bonus, winning tips"),
}


POOLS: dict[str, Texts] = _BILLS | _MINI_PROGRAMS | _PAGES | _APPS | _SEARCHES
