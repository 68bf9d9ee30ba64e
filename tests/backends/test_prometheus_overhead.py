from trimtab.bus import Bus
from trimtab.guard import Guard


def test_scrapes_count_as_overhead(serve, get):
    backend = serve()
    bus = Bus({"prometheus": backend}, Guard(print))
    before = bus.busy_seconds()
    get(backend.address)
    assert bus.busy_seconds() - before >= backend.busy_seconds > 0
    bus.close(5.0)
