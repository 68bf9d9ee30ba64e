"""The links of this machine: the package, its backends, a run that serves, and its port."""

from __future__ import annotations

import importlib.util
import platform
import re
from pathlib import Path

from trimtab import discovery, plugins
from trimtab.discovery import Target
from trimtab.doctor.finding import Finding, ok, skipped, wrong
from trimtab.doctor.http import Http, Unanswered

OLDEST_TORCH = (2, 11)


def package() -> Finding:
    """Whether Trimtab is installed beside a torch that it knows. Imports neither."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        ours = version("trimtab")
    except PackageNotFoundError:
        return wrong("package", "Trimtab is imported from its source, not installed.", "Run: pip install trimtab")
    if importlib.util.find_spec("torch") is None:
        return wrong("package", f"trimtab {ours} is here, torch is not.", "Run: pip install torch")
    try:
        torch = version("torch")
    except PackageNotFoundError:  # built from its source, and not installed
        return ok("package", f"trimtab {ours}, torch of unknown version, Python {platform.python_version()}")
    numbers = tuple(int(number) for number in re.findall(r"\d+", torch)[:2])
    if numbers < OLDEST_TORCH:
        return wrong("package", f"torch {torch} is older than 2.11.", "Run: pip install 'torch>=2.11'")
    return ok("package", f"trimtab {ours}, torch {torch}, Python {platform.python_version()}")


def backends() -> Finding:
    """Whether every backend that is installed can be used."""
    offers = plugins.installed()
    for offer in offers:
        if offer.problem:
            return wrong("backends", f"{offer.name}: {offer.problem}", "See all of them: trimtab backends")
    missing = set(plugins.BUILT_IN) - {offer.name for offer in offers}
    if missing:
        return wrong("backends", f"{', '.join(sorted(missing))}: not installed.", "Run: pip install trimtab")
    return ok("backends", ", ".join(offer.name for offer in offers))


def find_run(directory: Path, name: str | None) -> tuple[Finding, Target | None, bool]:
    """The run to follow through the chain: of that name, or the one seen last; and whether this user told of it.

    Where the directory is shared, anybody may have written an address there, to be sent a token.
    """
    host = platform.node()
    found = sorted(discovery.read(directory), key=lambda each: each.age_s)
    states = [(each, each.target, each.target.state(host, each.age_s)) for each in found if each.target is not None]
    dead = sum(state == "dead" for _, _, state in states)
    living = [(target, each.ours) for each, target, state in states if state in ("alive", "elsewhere")]
    wanted = sorted(((t, ours) for t, ours in living if name in (None, t.run)), key=lambda found: not found[1])
    if wanted:
        target, ours = wanted[0]
        said = f"{target.run}, rank {target.rank}, at {target.url}"
        said += f", and {len(living) - 1} more" if len(living) > 1 else ""
        return ok("run", said if ours else f"{said}; another user's, so it is sent no token"), target, ours
    asked = f"run {name!r}" if name else "no run"
    said = f"{asked} serves metrics, by the files in {directory}" if not name else f"{asked} has no file in {directory}"
    advice = "Start one: trimtab demo --serve. Runs that are kept elsewhere: --targets DIR."
    if dead:
        said, advice = f"{said}; files of dead processes: {dead}", f"Run: trimtab targets clean. {advice}"
    return wrong("run", f"{said}.", advice), None, False


def port(target: Target, token: str | None, certificates: Path | None = None) -> Finding:
    """Whether the run answers on its port, and is who it says. Its own certificate will do for `certificates`."""
    if target.host != platform.node():
        return skipped("port", f"{target.url} belongs to {target.host}; Prometheus has to reach it, not this machine.")
    server = Http(target.url.removesuffix("/metrics"), token, certificates=certificates)
    try:
        page = server.text("/metrics")
    except Unanswered as error:
        if error.status == 401:
            said = "the token is not the run's" if token else "it wants a token"
            advice = "Name the file that the run was given: TRIMTAB_METRICS_TOKEN_FILE."
            return wrong("port", f"{target.url}: {said}.", advice)
        if error.untrusted:
            advice = "Name the certificate and key that the run was given: TRIMTAB_TLS_CERTIFICATE_FILE, _KEY_FILE."
            return wrong("port", f"{error}.", advice)
        return wrong("port", f"{error}.", "Does the process hang? See its log. Another process may hold the port.")
    if f'run="{target.run}"' not in page:
        return wrong("port", f"{target.url} is served by another run.", "Run: trimtab targets clean")
    series = sum(not line.startswith("#") for line in page.splitlines())
    return ok("port", f"{target.url} serves {series} series")
