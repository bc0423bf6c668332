"""The shop's functions, which the programs of this directory call."""

from __future__ import annotations

from callee import Callee, Caller

rpc = Callee()
PRICES = {"tea": 3, "cup": 7}


@rpc.register("shop.price")
def price(name: str) -> int:
    """Return the price of an article."""
    return PRICES[name]


@rpc.register("shop.order")
def order(name: str, caller: Caller) -> str:
    """Place an order for the caller."""
    return f"{name} for {caller.identity or 'a guest'}"


@rpc.register("shop.report")
def report():
    """Send the lines of the daily report one by one."""
    for name, amount in PRICES.items():
        yield f"{name}: {amount}"
    return len(PRICES)
