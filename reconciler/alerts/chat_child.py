"""The child of the sink `apprise`: takes a letter as JSON, sends it to each URL of a file, says by its status how.

Imports nothing of the project; Apprise is imported here and nowhere else.
"""

import json
import logging
import sys
from pathlib import Path

SENT, FAILED, NO_APPRISE, NO_FILE, NO_SERVICE = 0, 10, 11, 12, 13


def main() -> int:
    try:
        from apprise import Apprise, AppriseAsset
    except ImportError:
        return NO_APPRISE
    letter = json.load(sys.stdin)
    try:
        lines = [line.strip() for line in Path(letter["urls"]).read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return NO_FILE
    urls = [line for line in lines if line and not line.startswith("#")]
    logging.disable(logging.CRITICAL)
    services = Apprise(asset=AppriseAsset(async_mode=False))
    if not urls or not all(services.add(url) for url in urls):
        return NO_SERVICE
    is_sent = services.notify(title=letter["title"], body=letter["body"], notify_type=letter["kind"])
    return SENT if is_sent else FAILED


if __name__ == "__main__":
    sys.exit(main())
