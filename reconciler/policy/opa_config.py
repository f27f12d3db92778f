"""Where the files of the hub's own OPA are, and the configuration that any OPA of the hub's runs with. Pure.

DATA/opa/        config.yaml token key port        0700; kept, so that OPA may start before the hub
RUN/opa/         opa.sock opa.pid                   0700; of the OPA that the hub runs itself
DATA/log/        opa.log opa-decisions.jsonl        what it says, and what it decided
"""

import json

FOLDER = "opa"
CONFIG_FILE = "config.yaml"
OPA_SOCKET = f"{FOLDER}/opa.sock"

KEY_ID = "hub"
BUNDLE_PATH = "/bundles/hub.tar.gz"
LONG_POLL_S = 55

_TEXT = """\
# Written by the router. `opa run --server --config-file` with this file is the whole set-up of OPA for this fleet.
services:
  hub:
    url: {url}
    credentials: {{bearer: {{token_path: {token_path}}}}}
keys:
  {key_id}: {{algorithm: HS256, key: {key}}}
bundles:
  hub:
    service: hub
    resource: {bundle_path}
    signing: {{keyid: {key_id}}}
    polling: {{min_delay_seconds: 1, max_delay_seconds: 2, long_polling_timeout_seconds: {long_poll_s}}}
decision_logs:
  service: hub
  resource: /logs
  # Nobody may hide decisions: these paths are the hub's own, and undefined.
  mask_decision: /hub/answer/mask
  drop_decision: /hub/answer/drop
  reporting:
    min_delay_seconds: 1
    max_delay_seconds: 5
    upload_size_limit_bytes: 262144
    buffer_size_limit_bytes: 16777216
status: {{service: hub}}
"""


def render_config(*, port: int, token_path: str, key: str) -> str:
    """`config.yaml`: bundle, decision log and status by the router's port on 127.0.0.1. `key` is a secret."""
    return _TEXT.format(
        url=f"http://127.0.0.1:{port}",
        token_path=json.dumps(token_path),
        key_id=KEY_ID,
        key=json.dumps(key),
        bundle_path=BUNDLE_PATH,
        long_poll_s=LONG_POLL_S,
    )
