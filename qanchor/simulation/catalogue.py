"""Every kind of event and what moves it: the numbers that make the world what it is.

Effects are weights on the logit within the slot (for `daily`: on the log of the daily rate) of a trait, in
standard deviations, or of a regime's state, named `regime.state`.
"""

from qanchor.simulation.kind import SLOTS, Kind
from qanchor.simulation.wording import POOLS


def _money(slipping: float, distressed: float, recovering: float) -> dict[str, float]:
    return {"money.slipping": slipping, "money.distressed": distressed, "money.recovering": recovering}


def _concert(curious: float, planning: float, glow: float) -> dict[str, float]:
    return {"concert.curious": curious, "concert.planning": planning, "concert.glow": glow}


_SPENDING = [
    Kind("grocery", "food", 0.7, {"takeout": -0.7}, amount=(45, 0.7), hour=(18, 2)),
    Kind("restaurant", "food", 0.3, {"income": 0.2, "weekend": 0.4}, amount=(60, 0.6), hour=(12.5, 3)),
    Kind("takeout", "food", -1.75, {"takeout": 1.5}, amount=(38, 0.5), hour=(19, 3)),
    Kind("transport", "food", 0.1, {"weekend": -0.6}, amount=(9, 0.8), hour=(9, 4)),
    Kind("budget", "shop", 0.4, {"bargain": 0.6, "premium": -0.6}, amount=(60, 0.9)),
    Kind("general", "shop", 0.6, {"bargain": -0.4}, amount=(110, 1.0)),
    Kind("premium", "shop", -1.5, {"premium": 1.5, "income": 0.2}, amount=(240, 0.9)),
    Kind("travel", "shop", -1.8, {"travel": 0.5, "activity.planning": 1.4}, amount=(600, 0.8)),
    Kind("big", "shop", -2.2, {"income": 0.2, "payweek": 0.6}, amount=(900, 0.9)),
    Kind("cinema", "leisure", 0.3, {"music": -0.5, "weekend": 0.5}, amount=(50, 0.5), hour=(20, 2)),
    Kind("stream", "leisure", 0.0, {"music": 0.4}, amount=(15, 0.4)),
    Kind("sport", "leisure", 0.0, {"eco": 0.2}, amount=(40, 0.5)),
    Kind(
        "gamble",
        "leisure",
        -1.0,
        {"stress": 0.3, "payweek": 0.3, **_money(0.7, 1.0, 0.3)},
        amount=(50, 1.0),
        hour=(21.5, 1.5),
    ),
    Kind(
        "concert",
        "leisure",
        -2.9,
        {"music": 1.1, **_concert(0.7, 2.0, -0.6)},
        amount=(380, 0.5),
        hour=(14, 4),
    ),
]


_ACCOUNT = [
    Kind("utility", "daily", -2.6, {"income": 0.1}, amount=(80, 0.6), hour=(9, 1), active_only=False),
    Kind(
        "instalment",
        "daily",
        -3.9,
        {"stress": 0.3, "income": 0.2},
        amount=(300, 0.6),
        hour=(8, 1),
        active_only=False,
    ),
    Kind(
        "late_fee",
        "daily",
        -6.4,
        {"stress": 0.9, **_money(1.6, 3.2, 0.6)},
        amount=(35, 0.3),
        hour=(7, 1),
        active_only=False,
    ),
    Kind(
        "chasing",
        "daily",
        -5.2,
        {"stress": 0.2, **_money(1.9, 2.6, 0.6)},
        ("gamble", "draw", "repay"),
        (220, 0.6),
        (20, 2),
    ),
    Kind(
        "settling",
        "daily",
        -5.2,
        {"stress": 0.2, **_money(0.9, 0.7, 2.6)},
        ("draw", "repay", "gamble"),
        (220, 0.6),
        (20, 2),
    ),
    Kind(
        "receive",
        "daily",
        -2.6,
        {"engagement": 0.2, "role.merchant": 2.1, "fraud.warming": 1.0, "fraud.running": 2.1},
        amount=(90, 1.0),
    ),
    Kind("send_friend", "daily", -2.8, {"engagement": 0.3, "income": 0.2}, amount=(120, 1.2)),
    Kind(
        "send_own",
        "daily",
        -3.0,
        {"income": 0.3, "role.merchant": 1.0, "activity.fading": 1.3, "fraud.warming": 0.3},
        amount=(700, 1.0),
        hour=(22, 1),
    ),
    Kind(
        "send_new",
        "daily",
        -5.5,
        {"role.merchant": 1.2, "fraud.warming": 1.6, "fraud.running": 2.2},
        amount=(700, 1.0),
        hour=(15, 5),
    ),
    Kind(
        "quick_out",
        "daily",
        -7.0,
        {"role.merchant": 2.0, "fraud.warming": 3.6, "fraud.running": 5.6},
        ("receive", "receive", "send_new"),
        (260, 0.8),
        (15, 5),
    ),
    Kind(
        "slow_out",
        "daily",
        -7.0,
        {"role.merchant": 5.6, "fraud.warming": 1.5, "fraud.running": 2.4},
        ("send_own", "receive", "receive"),
        (260, 0.8),
        (15, 5),
    ),
    Kind(
        "claim",
        "daily",
        -8.1,
        {"fraud.warming": 2.6, "fraud.running": 5.0},
        amount=(800, 0.8),
        active_only=False,
    ),
    Kind("salary", "daily", -30.0, amount=(4200, 0.1), hour=(10, 0.5), active_only=False),
    Kind("refund", "daily", -4.0, {"discontent": 0.4}, amount=(90, 0.8)),
]


_SERVICES = [
    Kind("transit", "mini", 0.2, {"premium": -0.5}),
    Kind("health", "mini", 0.0, {"stress": -0.6}),
    Kind("games", "mini", 0.1, {"eco": -0.8}),
    Kind("charity", "mini", -0.7, {"eco": 0.6}),
    Kind("food_orders", "mini", -0.6, {"takeout": 0.9}),
    Kind("brand_club", "mini", -1.0, {"premium": 1.1}),
    Kind("tickets", "mini", -1.3, {"music": 0.9, **_concert(0.6, 1.2, 0.9)}),
    Kind("eco_visit", "mini", -0.6, {"eco": 0.9, "grove.playing": 0.7, "grove.weary": 1.0}),
    Kind("forest", "mini", -2.1, {"eco": 1.2, "grove.playing": 1.7, "grove.weary": -0.3}),
    Kind("coupon_look", "mini", -0.5, {"bargain": 0.9, "deals.hunting": 0.8, "deals.sated": 0.6}),
    Kind("redeem", "mini", -2.0, {"bargain": 1.2, "deals.hunting": 1.4, "deals.sated": -0.7}),
    Kind("loans", "mini", -1.2, {"stress": 0.7, **_money(1.0, 1.3, 0.4)}),
    Kind("budgeting", "mini", -1.0, {"stress": -0.3, "money.distressed": 0.1, "money.recovering": 1.4}),
]


_PAGE_SCRIPTS = [
    Kind("loan_in", "page", -4.0, _money(1.6, 2.2, 0.4), ("p_relief", "p_loan", "p_game")),
    Kind("loan_out", "page", -4.0, _money(0.8, 0.5, 2.2), ("p_game", "p_loan", "p_relief")),
    Kind(
        "ticket_in",
        "page",
        -4.2,
        {"music": 0.2, **_concert(0.8, 2.4, 0.2)},
        ("p_glow", "p_ticket", "p_invest"),
    ),
    Kind(
        "ticket_back",
        "page",
        -4.2,
        {"music": 0.2, **_concert(0.8, 0.2, 2.4)},
        ("p_invest", "p_ticket", "p_glow"),
    ),
    Kind(
        "coupon_in",
        "page",
        -4.2,
        {"bargain": 0.2, "deals.hunting": 2.2, "deals.sated": 0.2},
        ("p_coupon", "p_brand", "p_home"),
    ),
    Kind(
        "coupon_back",
        "page",
        -4.2,
        {"bargain": 0.2, "deals.hunting": 0.2, "deals.sated": 2.2},
        ("p_home", "p_brand", "p_coupon"),
    ),
]


_PAGES = [
    Kind("p_home", "page", 0.5, {"bargain": -0.4, "premium": -0.4}),
    Kind("p_loan", "page", -1.8, {"stress": 0.7, **_money(1.0, 1.4, 0.3)}, hour=(21.0, 2.0)),
    Kind("p_relief", "page", -1.6, {"stress": 0.1, **_money(0.3, 0.6, 1.9)}, hour=(21.0, 2.0)),
    Kind("p_security", "page", -1.3, {"phone.new": 2.2, "fraud.warming": 1.9, "role.ring": 0.7}),
    Kind(
        "p_ring",
        "page",
        -2.8,
        {
            "phone.new": 0.9,
            "role.merchant": 1.1,
            "fraud.warming": 2.3,
            "fraud.running": 2.3,
            "role.ring": 0.6,
        },
    ),
    Kind("p_shop_owner", "page", -3.2, {"role.merchant": 2.7, "fraud.running": 1.8}),
    Kind("p_coupon", "page", -0.9, {"bargain": 0.9, "deals.hunting": 1.0}),
    Kind("p_points", "page", -1.4, {"bargain": 0.5, "deals.sated": 1.5}),
    Kind("p_brand", "page", -0.9, {"premium": 1.2}),
    Kind("p_ticket", "page", -2.0, {"music": 0.9, **_concert(0.6, 1.4, 0.4)}),
    Kind("p_glow", "page", -2.0, {"music": 0.9, **_concert(0.4, 0.4, 1.4)}),
    Kind("p_food", "page", -0.7, {"takeout": 0.9}),
    Kind("p_cook", "page", -0.7, {"takeout": -0.9}),
    Kind("p_eco", "page", -0.8, {"eco": 1.0, "grove.playing": 1.0, "grove.weary": 0.1}),
    Kind("p_help", "page", -1.5, {"discontent": 0.9, "activity.fading": 1.2}),
    Kind("p_travel", "page", -1.3, {"travel": 0.6, "activity.planning": 1.9}),
    Kind("p_invest", "page", -0.8, {"stress": -0.7, "income": 0.3}),
    Kind("p_film", "page", -0.7, {"music": -0.8}),
    Kind("p_game", "page", -1.2, {"eco": -0.6, "stress": 0.4, "money.distressed": 0.4}),
]


_APPS = [
    Kind("a_social", "app", 0.3, {"bargain": -0.4}),
    Kind("a_video", "app", 0.1, {"music": -0.4}),
    Kind("a_food", "app", -0.5, {"takeout": 0.9}),
    Kind("a_cook", "app", -0.5, {"takeout": -0.9}),
    Kind("a_music", "app", -0.5, {"music": 0.8, "concert.planning": 0.6, "concert.glow": 0.6}),
    Kind("a_game", "app", -0.2, {"eco": -0.8}),
    Kind("a_luxury", "app", -1.0, {"premium": 1.2}),
    Kind("a_coupon", "app", -0.4, {"bargain": 1.0, "deals.hunting": 0.5, "deals.sated": 0.3}),
    Kind("a_lend", "app", -1.2, {"stress": 0.7, **_money(1.0, 1.4, 0.2)}),
    Kind("a_budget", "app", -1.2, {"money.recovering": 1.6, "money.distressed": 0.4}),
    Kind("a_rival", "app", -1.2, {"discontent": 1.0, "activity.fading": 1.4}),
    Kind("a_clone", "app", -2.8, {"role.ring": 1.2, "fraud.warming": 1.2, "fraud.running": 1.0}),
    Kind("a_eco", "app", -0.7, {"eco": 1.0, "grove.playing": 0.5}),
    Kind("a_travel", "app", -0.9, {"travel": 0.7, "activity.planning": 1.4}),
]


_SEARCHES = [
    Kind("q_any", "search", 0.3, {"bargain": -0.5, "premium": -0.4}),
    Kind("q_loan", "search", -1.4, {"stress": 0.7, **_money(1.0, 1.5, 0.2)}),
    Kind("q_relief", "search", -1.8, {"money.distressed": 0.5, "money.recovering": 2.0}),
    Kind("q_food", "search", -0.5, {"takeout": 0.9}),
    Kind("q_cook", "search", -0.5, {"takeout": -0.9}),
    Kind("q_music", "search", -1.4, {"music": 0.9, **_concert(0.7, 1.4, 0.2)}),
    Kind("q_glow", "search", -1.2, {"music": 0.9, **_concert(0.3, 0.2, 1.4)}),
    Kind("q_brand", "search", -0.9, {"premium": 1.2}),
    Kind("q_deal", "search", -0.7, {"bargain": 1.0, "deals.hunting": 1.0}),
    Kind("q_eco", "search", -0.9, {"eco": 1.0, "grove.playing": 1.0}),
    Kind("q_leave", "search", -2.0, {"discontent": 0.9, "activity.fading": 1.7}),
    Kind("q_trip", "search", -0.9, {"travel": 0.6, "activity.planning": 1.8}),
    Kind("q_safe", "search", -1.6, {"phone.new": 1.9, "fraud.warming": 1.7, "role.ring": 0.6}),
    Kind("q_film", "search", -0.5, {"music": -0.8}),
    Kind("q_game", "search", -0.8, {"eco": -0.6, "stress": 0.4, "money.distressed": 0.4}),
]

# The kinds that labels count.
TARGETS = ("claim", "late_fee", "concert", "forest", "takeout", "premium", "redeem")

# In slot order, so that the kinds of one slot are adjacent columns.
KINDS: tuple[Kind, ...] = tuple(
    sorted(
        [*_SPENDING, *_ACCOUNT, *_SERVICES, *_PAGES, *_PAGE_SCRIPTS, *_APPS, *_SEARCHES],
        key=lambda kind: list(SLOTS).index(kind.slot),
    )
)
INDEX: dict[str, int] = {kind.name: i for i, kind in enumerate(KINDS)}
SPENDING_CATEGORIES = frozenset({"food", "shopping", "entertainment", "transport", "travel", "household"})
# Every kind with one step that is spending; each has exactly one.
SPENDING = tuple(
    kind.name
    for kind in KINDS
    if SLOTS[kind.slot].modality == "bill"
    and any(POOLS[pool][0][0] == "pays" and POOLS[pool][0][1] in SPENDING_CATEGORIES for pool in kind.pools)
)

if missing := {pool for kind in KINDS for pool in kind.pools} - set(POOLS):
    raise ValueError(f"kinds without words: {sorted(missing)}")
