"""What a worker is made of: importing the composition root, and nothing else, puts every part on the two apps."""

import json
import subprocess
import sys

LOOK = """
import json
from sf_healer.worker import actuator, detector
for app in (detector, actuator):
    app.web.init_server()  # with what Faust has of its own
print(json.dumps({
    app.conf.id: {
        "agents": sorted(name.rpartition(".")[2] for name in app.agents),
        "tables": sorted(app.tables),
        "pages": sorted(view.view_path for view in app.web.views.values()),
    }
    for app in (detector, actuator)
}))
"""
SHARED = ["/actions/", "/actions/{action_id}/", "/assets/{name}"]
HEALTH = ["/livez", "/metrics", "/readyz"]


def test_importing_the_composition_root_registers_every_agent_table_and_page():
    # Another interpreter: here other tests may have imported the parts one by one.
    looked = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert json.loads(looked.stdout) == {
        "sf-healer-detector": {
            "agents": ["control", "sweeper", "telemetry"],
            "tables": ["jobs"],
            "pages": ["/", *SHARED, "/fleet/", "/jobs/", "/jobs/{namespace}/{name}/", *HEALTH, "/ui/"],
        },
        "sf-healer-actuator": {
            "agents": ["actuator", "copy_commands", "copy_pauses"],
            "tables": ["actions"],
            "pages": ["/", *SHARED, *HEALTH],
        },
    }
