"""What a server of alerts answers: JSON, or a sentence that says what is wrong."""

from __future__ import annotations

import ssl
from pathlib import Path

from trimtab.errors import ConfigError
from trimtab.http import NoResponse, Response, Server

DEADLINE_S = 8.0
MAX_BYTES = 4 * 1024 * 1024
_CROWDED = b"concurrent GET requests"  # in what Alertmanager says beside 503, which others say when nobody is there


class Unanswered(Exception):
    """A server did not answer as it should. `kind` is a word for it, the message a sentence without secrets."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class NotThere(Unanswered):
    """The server answers, and has nothing under that path."""


class Busy(Unanswered):
    """The server has others to answer just now: an Alertmanager does eight at a time, or `--web.get-concurrency`."""


class Client:
    """One server, by its address, asked with `token` where one is given. For what it obeys see `http`.

    Raises:
        ConfigError: the file of certificates cannot be used.
    """

    def __init__(self, address: str, token: bytes | None = None, certificates: Path | None = None) -> None:
        self._server = Server(
            address,
            token,
            trust=_trusting(certificates) if address.startswith("https:") else None,
            answer_s=DEADLINE_S,
            largest=MAX_BYTES,
            headers={"Accept": "application/json"},
        )
        self.address = self._server.address

    def get(self, path: str) -> bytes:
        """The body of the answer to `GET path`. Takes `http.CONNECT_S` and `DEADLINE_S` at most.

        Raises:
            Unanswered: no answer, or not one that may be read as JSON.
        """
        try:
            answer = self._server.get(path)
        except NoResponse as problem:
            advice = " See alerts_ca_file." if problem.kind == "untrusted" else ""
            raise Unanswered(problem.kind, f"{self.address} {problem}.{advice}") from problem
        self._check(answer)
        return answer.body

    def _check(self, answer: Response) -> None:
        status, headers = answer.status, answer.headers
        if status in (401, 403):
            raise Unanswered("refused", f"{self.address} refuses the token ({status}). See alerts_token_file.")
        if 300 <= status < 400:
            raise Unanswered(
                "redirect", f"{self.address} redirects ({status}), which is not followed. Give the target."
            )
        if status == 404:
            raise NotThere("not there", f"{self.address} is neither an Alertmanager nor a Grafana (404).")
        if status == 429 or (status == 503 and _CROWDED in answer.body):
            raise Busy("busy", f"{self.address} has too many to answer ({status}).")
        if status != 200:
            raise Unanswered("status", f"{self.address} answers {status}.")
        if (
            headers.get_content_type() != "application/json"
            or headers.get("Content-Encoding", "identity") != "identity"
        ):
            raise Unanswered("not JSON", f"{self.address} answers with something else than JSON. Is the address right?")


def _trusting(certificates: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certificates)
    except OSError as error:
        raise ConfigError(
            f"alerts_ca_file={str(certificates)!r}: cannot be used ({error.strerror or error}). "
            "Give a file of certificates in PEM."
        ) from error
