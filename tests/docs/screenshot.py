"""`make screenshot` draws docs/images/stuck-and-healed.svg: what `sf-healer` prints beside a running demo.

It is text in an SVG, with nothing loaded from elsewhere. docs/images is for such pictures alone, never for bitmaps.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tests.lab.process import Server
from tests.lab.waiting import until

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "stuck-and-healed.svg"
COLUMNS = 122
HANGS = "loader-ethusdt-api-trades-2025-06-01-2qgfzu-loader-ws"
UP_SECONDS, SEEN_SECONDS = 90.0, 60.0
COLOURS = {r"\bstuck\b": "bold red", r"\bhealthy\b": "green", r"^\$.*$": "bold"}


def main() -> None:
    """Run the demo, ask it twice, and draw the answers."""
    with tempfile.TemporaryDirectory() as directory:
        env_file, log = Path(directory) / "demo.env", Path(directory) / "demo.log"
        program = str(Path(sys.executable).with_name("sf-healer"))
        demo = Server("demo", [program, "demo", "--keep", "--env-file", str(env_file)], log=log)
        demo.start()
        try:
            demo.wait_until(env_file.exists, seconds=UP_SECONDS)

            def shown(command: str, *wanted: str) -> str:
                def look() -> str:
                    script = f". {env_file}; COLUMNS={COLUMNS} {command}"
                    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
                    told = done.stdout
                    return told if all(word in told for word in wanted) else ""

                return f"$ {command}\n" + until(look, f"{wanted} from {command}", seconds=SEEN_SECONDS)

            stuck = shown("sf-healer jobs", "stuck")
            healed = shown(f"sf-healer job {HANGS} | head -9", "restart before", "because")
        finally:
            demo.stop(patience_seconds=40.0)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(drawn(f"{stuck}\n{healed}"))
    sys.stderr.write(f"{PICTURE}\n")


def drawn(text: str) -> str:
    """Draw lines of a terminal as SVG, in a font that the reader has."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    coloured = Text(text.rstrip())
    for pattern, style in COLOURS.items():
        for found in re.finditer(pattern, text, flags=re.MULTILINE):
            coloured.stylize(style, *found.span())
    console.print(coloured)
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title="sf-healer", code_format=without_fonts, unique_id="terminal") + "\n"


if __name__ == "__main__":
    main()
