import io

import pytest
from sending import RUN, RUN_ID, Clock

from trimtab.alerts import webhook
from trimtab.alerts.inbox import Inbox

TOKEN = b"s3cret"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def inbox(clock):
    return Inbox(RUN, RUN_ID, ["loss_diverged", "loss_spike", "alert:GpuHot"], clock=clock)


@pytest.fixture
def post(inbox):
    """Post a body to the webhook of the inbox: the status, and the JSON of the answer."""
    application = webhook.application(inbox, TOKEN)

    def post(body, token="s3cret", method="POST", **environ):
        told = []
        environ = {
            "REQUEST_METHOD": method,
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_AUTHORIZATION": f"Bearer {token}",
            "wsgi.input": io.BytesIO(body),
            **environ,
        }
        answer = b"".join(application(environ, lambda status, headers: told.append(status)))
        return int(told[0].split()[0]), answer

    return post
