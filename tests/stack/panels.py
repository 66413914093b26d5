"""Every query of every dashboard, run as Grafana runs it: with the values that its variables find, over a range or for now."""

import json
import math
import re
import time

from services import REPOSITORY, Failure

STEP = 5


def variables(prometheus, board):
    """Name to regular expression, as Grafana writes the choice of all values that a variable finds."""
    chosen = {}
    for variable in board["templating"]["list"]:
        if variable["type"] == "datasource":
            continue
        query = substitute(variable["query"]["query"], chosen)
        call = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        if not call:
            raise Failure(f"variable {variable['name']}: cannot run {query}")
        values = prometheus.ask(f"label/{call[2]}/values", **{"match[]": call[1]})
        if not values:
            raise Failure(f"{board['uid']}: variable {variable['name']} finds nothing: {query}")
        # The form is that of ${name:regex}: special characters escaped, alternatives in parentheses.
        chosen[variable["name"]] = "(" + "|".join(re.sub(r"([.*+?^${}()|\[\]\\/])", r"\\\\\1", value) for value in values) + ")"
    return chosen


def substitute(expr, chosen, rate_interval="30s"):
    expr = expr.replace("$__rate_interval", rate_interval)
    # Longest names first: $engine is the beginning of $engine_model.
    for name in sorted(chosen, key=len, reverse=True):
        expr = expr.replace(f"${name}", chosen[name])
    if re.search(r"\$\w", expr):
        raise Failure(f"a variable without a value: {expr}")
    return expr


def finite(series):
    values = series.get("values") or [series["value"]]
    return any(math.isfinite(float(value)) for _, value in values)


def check(prometheus, seconds):
    """Runs all queries over the last `seconds`; raises with the list of those that return nothing."""
    end = time.time()
    empty, count = [], 0
    for path in sorted((REPOSITORY / "deploy/grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        chosen = variables(prometheus, board)
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                expr = substitute(target["expr"], chosen)
                if target["range"]:
                    found = prometheus.range(expr, end - seconds, end, STEP)
                else:
                    found = prometheus.instant(expr, end)
                count += 1
                if not any(finite(series) for series in found):
                    empty.append(f"{board['uid']}: {panel['title']} {target['refId']}: {expr}")
        for annotation in board["annotations"]["list"]:
            # Whether there is something to mark depends on what happened; the query must run.
            prometheus.range(substitute(annotation["expr"], chosen), end - seconds, end, STEP)
    if empty:
        raise Failure(f"{len(empty)} of {count} queries return nothing:\n" + "\n".join(empty))
    print(f"  {count} queries of panels return data", flush=True)
