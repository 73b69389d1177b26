"""Costs, by dated rates."""

import json
from dataclasses import asdict, replace

import pytest
from history_making import GIB, T0, history, job, row, usage, worker

from dask_site import Site
from dask_site.history.costs import Bill, Costs, Rates, Tariff, bill
from dask_site.history.daily import by_day
from dask_site.history.ledger import close_books

HOUR = 3600.0
DAY = 86400.0
MIDNIGHT = T0 // DAY * DAY + DAY


def site(core_hour=0.01, gpu_hour=0.8):
    cpu = {"cores": 4, "memory": "16GiB", "cost": {"core_hour": core_hour}}
    gpu = {"cores": 8, "memory": "32GiB", "gpus": 2, "cost": {"gpu_hour": gpu_hour}}
    free = {"cores": 1, "memory": "1GiB"}
    return Site.from_mapping(
        {
            "schema": 1,
            "name": "Costly",
            "resource_manager": "local",
            "default_pool": "cpu",
            "pools": {"cpu": cpu, "gpu": gpu, "free": free},
        }
    )


def test_a_bill_of_accounted_jobs():
    past = history(
        job("cpu-0", "1", started=0),
        job("gpu-0", "2", pool="gpu", started=0),
        job("free-0", "3", pool="free", started=0),
        accounting=[
            row("1", end=2 * HOUR, cores=4, memory=16 * GIB, billing=6, energy=5000.0),
            row("2", end=HOUR, cores=8, gpus=2, memory=32 * GIB),
            row("3", end=HOUR, cores=1),
        ],
        seen=2 * HOUR,
    )
    costs = bill(past, Tariff.of_site(site()))
    assert costs.pools["cpu"] == Costs(
        core_hours=8, gib_hours=32, money=pytest.approx(0.08), billing=12, energy=5000, metered=8
    )
    assert costs.pools["gpu"].gpu_hours == 2
    assert costs.pools["gpu"].money == pytest.approx(1.6)
    assert costs.pools["free"].unpriced == 1
    assert costs.whole.money == pytest.approx(1.68)
    assert (costs.whole.core_hours, costs.whole.energy, costs.whole.metered) == (17, 5000, 8)
    assert (costs + costs).whole.core_hours == 34
    assert sum([costs, Bill()], Bill()).whole == costs.whole


def test_without_accounting_what_was_asked_for_and_no_energy():
    costs = bill(history(job(started=0, ended=HOUR, gpus=1, cores=2), seen=HOUR)).whole
    assert (costs.core_hours, costs.gpu_hours, costs.gib_hours) == (2, 1, 8)
    assert (costs.billing, costs.energy, costs.unpriced, costs.money) == (None, None, 2, 0)


def test_old_work_keeps_its_price():
    tariff = Tariff.of_site(site(0.01)).with_site(site(0.05), T0 + HOUR)
    costs = bill(history(job(started=0, ended=3 * HOUR, cores=2), seen=3 * HOUR), tariff)
    assert costs.whole.money == pytest.approx(2 * 0.01 + 4 * 0.05)
    assert tariff.with_site(site(0.05), T0 + 2 * HOUR) is tariff
    before = Tariff.of_site(site(), T0 + HOUR)
    costs = bill(history(job(started=0, ended=HOUR, cores=2), seen=HOUR), before).whole
    assert (costs.money, costs.unpriced) == (0, 2)


def around_midnight(number="1", before=HOUR, after=HOUR, **values):
    start, end = MIDNIGHT - T0 - before, MIDNIGHT - T0 + after
    return row(number, start=start, end=end, pool="cpu", **{"cores": 10, **values})


def test_each_day_has_the_price_of_its_time():
    past = history(accounting=[around_midnight()], seen=2 * DAY)
    later = (MIDNIGHT, {"cpu": Rates(9.0)})
    changed = by_day(past, Tariff(((0.0, {"cpu": Rates(1.0)}), later)))
    assert [each.costs.money for each in changed] == [10, 90]
    begun = by_day(past, Tariff((later,)))
    assert [(each.costs.money, each.costs.unpriced) for each in begun] == [(0, 10), (90, 0)]
    noon = Tariff(((0.0, {"cpu": Rates(1.0)}), (MIDNIGHT + HOUR / 2, {"cpu": Rates(9.0)})))
    assert [each.costs.money for each in by_day(past, noon)] == [10, 50]


def test_each_day_has_what_was_held_on_it():
    uncounted = around_midnight("1", after=0, memory=8 * GIB, energy=300.0)
    counted = around_midnight("2", gpus=4, billing=6.0)
    running = around_midnight("3", before=-HOUR, after=2 * DAY, billing=0.1)
    running = replace(running, end=None)
    seen = MIDNIGHT - T0 + 2 * HOUR
    past = history(accounting=[uncounted, counted, running], seen=seen, ended=False)
    tariff = Tariff(((0.0, {"cpu": Rates(1.0, 2.0, 3.0, 5.0)}),))
    first, second = (each.costs for each in by_day(past, tariff))
    assert (first.core_hours, first.gpu_hours, first.gib_hours) == (20, 4, 8)
    assert (first.billing, first.unpriced, first.money) == (6, 10, 20 + 8 + 24 + 30)
    assert (second.core_hours, second.gpu_hours, second.gib_hours) == (20, 4, 0)
    assert (second.unpriced, second.billing) == (0, pytest.approx(6.1))
    assert (first.energy, first.metered) == (150, 5), "nobody measured it by day"
    whole = asdict(bill(past, tariff).whole)
    assert asdict(first + second) == pytest.approx(whole)


def test_rates_are_kept_as_json():
    tariff = Tariff.of_site(site(0.01)).with_site(site(0.05), T0)
    assert Tariff.from_list(json.loads(json.dumps(tariff.to_list()))) == tariff
    assert tariff.dated[0][1]["cpu"] == Rates(core_hour=0.01)


@pytest.mark.parametrize(
    "values",
    [
        [{}],
        [3],
        [{"since": 0, "pools": {"cpu": {"core_minute": 1}}}],
        [{"since": 0, "pools": 3}],
    ],
)
def test_what_are_no_rates_is_said(values):
    with pytest.raises(ValueError, match="no dated rates"):
        Tariff.from_list(values)


def test_rates_out_of_order_are_refused():
    with pytest.raises(ValueError, match="each moment once"):
        Tariff.of_site(site(0.01), T0).with_site(site(0.05), T0)


def test_the_price_of_idling():
    past = history(
        job("cpu-0", "1", started=0, ended=HOUR, cores=2),
        worker("cpu-0", 0, HOUR, job="1"),
        usage(idle={"no work": HOUR}, busy=HOUR),
        seen=HOUR,
    )
    costs = bill(past, Tariff.of_site(site(1.0)))
    assert costs.whole.money == pytest.approx(2)
    assert costs.money_of(close_books(past), "idle: no work") == pytest.approx(1)


def test_memory_and_billing_units_have_prices_too():
    rates = Rates(core_hour=1.0, gib_hour=0.5, billing_hour=10.0)
    tariff = Tariff(((0.0, {"cpu": rates}),))
    there = job("cpu-0", "1", started=0)
    known = row("1", end=HOUR, cores=4, memory=16 * GIB, billing=6)
    costs = bill(history(there, accounting=[known], seen=HOUR), tariff).whole
    assert costs.money == 4 + 8 + 60
    assert (costs.gib_hours, costs.billing, costs.unpriced) == (16, 6, 0)
    # Without accounting nobody knows the units: the price isn't whole.
    costs = bill(history(there, seen=HOUR), tariff).whole
    assert costs.money == 2 + 4
    assert (costs.billing, costs.unpriced) == (None, 2)
    assert Tariff.from_list(tariff.to_list()) == tariff
    old = [{"since": 0.0, "pools": {"cpu": {"core_hour": 1.0, "gpu_hour": 0.0}}}]
    assert Tariff.from_list(old).dated[0][1]["cpu"] == Rates(1.0)
