"""Start the daemon: environment in, exit status out.

0 ended as asked, 64 configuration refused, 70 broken.
"""

from __future__ import annotations

import os
import sys

from reconciler.agentd.config import ConfigError, load_config
from reconciler.agentd.daemon import Daemon
from reconciler.agentd.log import Log


def main() -> int:
    log = Log(instance=os.environ.get("HUB_INSTANCE", ""), stream=sys.stderr)
    try:
        daemon = Daemon(load_config(os.environ), log)
    except ConfigError as error:
        log.error("the configuration is not usable", error=str(error))
        return 64
    return daemon.run()


if __name__ == "__main__":
    sys.exit(main())
