"""Stands in for the agent of Ray's dashboard, which a node waits for and does not live without.

Ray's serves what a dashboard asks of a node, after seconds of imports. This one says that nothing is served, as Ray's
does where the dashboard's packages are missing. It runs as a script, without popgpt and without site-packages.
"""

import os
import sys
import time

# What the node waits for: files of its session with the ports that the agent listens on; -1 is none.
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")

node = os.getppid()
given = dict(word[2:].split("=", 1) for word in sys.argv if word.startswith("--") and "=" in word)
for name in PORTS:
    path = os.path.join(given["session-dir"], f"{name}_{given['node-id']}")
    with open(f"{path}.part", "w") as file:
        file.write("-1")
    os.rename(f"{path}.part", path)
while os.getppid() == node:  # it ends after the node at the latest
    time.sleep(1)
