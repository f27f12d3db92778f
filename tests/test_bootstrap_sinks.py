"""What `operator.yaml` says of sinks, as couriers that bring notices there."""

import json
from pathlib import Path

from reconciler.bootstrap import open_couriers
from reconciler.settings import FORGE_SINK, OperatorSpec
from tests.alerts.mail import PASSWORD, USER, mail_server
from tests.alerts.receiver import receiving

NOTICE = json.dumps({"id": "1", "status": "raised", "type": "RouterDown", "subject": "hub", "message": "it is away"})


def test_each_sort_of_sink_gets_its_notices(tmp_path: Path) -> None:
    password, urls, program = (tmp_path / name for name in ("password", "urls", "notify"))
    password.write_text(PASSWORD)
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/notified\n")
    program.chmod(0o700)
    with mail_server(tmp_path) as mail, receiving() as web, receiving() as chat:
        chat.answer = lambda _n: 200
        urls.write_text(f"json://{chat.url.removeprefix('http://')}/")
        smtp = {"server": f"localhost:{mail.port}", "from": USER, "to": ["ops@example.org"], "user": USER}
        sinks = {
            "web": {"webhook": {"url": web.url}},
            "script": {"command": {"argv": [str(program)]}},
            "mail": {"smtp": {**smtp, "passwordFile": str(password), "caFile": mail.ca_file}},
            "chat": {"apprise": {"urlsFile": str(urls)}, "timeout": "60s"},
        }
        status = {"forge": "github", "project": "octo/fleet", "tokenFile": "/etc/token"}
        operator = OperatorSpec.model_validate({"sinks": sinks, "commitStatus": status})
        couriers = dict(open_couriers(operator, lambda _seq: None, lambda: True))
        assert couriers.keys() == {*sinks, FORGE_SINK}
        del couriers[FORGE_SINK]
        for courier in couriers.values():
            courier.start()
            courier.offer(None, NOTICE)
        for courier in couriers.values():
            courier.drain(60)
            courier.close()
        assert (len(mail.mails), len(web.posts), len(chat.posts)) == (1, 1, 1)
        assert (tmp_path / "notified").read_text() == NOTICE
