"""Page or JSON, under the same address: one rule.

`?format=html` and `?format=json` decide. Without them the page goes to whoever names `text/html` in `Accept` and wants
it more than `application/json`, as browsers do; everybody else, also who takes anything, gets JSON.
"""


def wants_page(accept: str, asked_format: str | None) -> bool:
    """Return whether the page is wanted; `accept` is the header (RFC 9110, 12.5.1), empty where there is none."""
    if asked_format is not None:
        return asked_format == "html"
    qualities: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = part.split(";")
        qualities.setdefault(kind.strip().lower(), _quality(parameters))
    page = qualities.get("text/html", 0.0)
    return page > qualities.get("application/json", 0.0)


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
