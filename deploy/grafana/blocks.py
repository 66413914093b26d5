"""Building blocks of the dashboards: panels as Grafana's JSON, laid out from left to right."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


def steps(*levels):
    """Colours from a level on; the first one has none."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in levels]}


PLAIN = steps((None, GREEN))


def target(expr, legend, ref, *, instant=False, kind="time_series"):
    query = {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expr,
        "format": kind,
        "legendFormat": legend,
        "range": not instant,
        "refId": ref,
    }
    return query | ({"instant": True} if instant else {})


def targets(queries, **options):
    return [target(expr, legend, chr(ord("A") + index), **options) for index, (expr, legend) in enumerate(queries)]


def panel(kind, title, description, unit, queries, *, width, height, thresholds=PLAIN, decimals=None, options=None, custom=None, **extra):
    defaults = {"unit": unit, "thresholds": thresholds, "mappings": [], "color": {"mode": "palette-classic"}}
    if decimals is not None:
        defaults["decimals"] = decimals
    if custom:
        defaults["custom"] = custom
    for key in ("min", "max", "color"):
        if key in extra:
            defaults[key] = extra.pop(key)
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": extra.pop("overrides", [])},
        "gridPos": {"w": width, "h": height},
        "options": options or {},
        "targets": queries,
        **extra,
    }


def lines(title, description, unit, queries, *, width=12, height=8, thresholds=None, stack=False, log=False, **extra):
    """Curves over time; thresholds are drawn as dashed lines."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stack else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stack else "none"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel(
        "timeseries", title, description, unit, targets(queries),
        width=width, height=height, thresholds=thresholds or PLAIN, options=options, custom=custom, **extra,
    )


def number(title, description, unit, expr, legend, *, width=4, height=4, thresholds=PLAIN, **extra):
    """One number, coloured by its thresholds."""
    options = {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return panel(
        "stat", title, description, unit, targets([(expr, legend)]),
        width=width, height=height, thresholds=thresholds, options=options, color={"mode": "thresholds"}, **extra,
    )


def heatmap(title, description, unit, expr, *, width=12, height=8):
    """Counts by bucket over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "reverse": False, "scale": "exponential", "scheme": "Oranges", "steps": 64},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    queries = [target(expr, "{{le}}", "A", kind="heatmap")]
    custom = {"scaleDistribution": {"type": "linear"}, "hideFrom": {"legend": False, "tooltip": False, "viz": False}}
    return panel("heatmap", title, description, unit, queries, width=width, height=height, options=options, custom=custom)


def table(title, description, columns, by, *, width=24, height=8):
    """One row for each set of the labels `by`; columns: (title, unit, decimals, thresholds, expression)."""
    queries = [
        target(expr, name, chr(ord("A") + index), instant=True, kind="table")
        for index, (name, _, _, _, expr) in enumerate(columns)
    ]
    rename = {f"Value #{query['refId']}": column[0] for query, column in zip(queries, columns)}
    overrides = []
    for name, unit, decimals, thresholds, _ in columns:
        properties = [{"id": "unit", "value": unit}, {"id": "decimals", "value": decimals}]
        if thresholds:
            properties += [
                {"id": "thresholds", "value": thresholds},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ]
        overrides.append({"matcher": {"id": "byName", "options": name}, "properties": properties})
    transformations = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "indexByName": {label: index for index, label in enumerate(by)},
                "renameByName": rename,
            },
        },
    ]
    return panel(
        "table", title, description, "short", queries, width=width, height=height,
        options={"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""}},
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True},
        overrides=overrides, transformations=transformations,
    )


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "gridPos": {"w": WIDTH, "h": 1}, "panels": []}


def variable(name, label, query, description):
    return {
        "name": name,
        "label": label,
        "description": description,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "options": [],
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
    }


DATASOURCE_VARIABLE = {
    "name": "datasource",
    "label": "Prometheus",
    "description": "The Prometheus that scrapes Plumbline and has its recording rules",
    "type": "datasource",
    "query": "prometheus",
    "current": {},
    "hide": 0,
    "includeAll": False,
    "multi": False,
    "options": [],
    "refresh": 1,
    "regex": "",
    "skipUrlSync": False,
}

SEEN = "plumbline_tokens_scored_total"
VARIABLES = [
    DATASOURCE_VARIABLE,
    variable("model_name", "Model", f"label_values({SEEN}, model_name)", "The reference's model"),
    variable("engine", "Engine", f'label_values({SEEN}{{model_name=~"$model_name"}}, engine)', "The name that senders give their engine"),
    variable("run", "Run", f'label_values({SEEN}{{model_name=~"$model_name", engine=~"$engine"}}, run)', "The name that senders give their run"),
]
# Engines name their model as they serve it, which need not be the reference's name.
ENGINE_MODEL = variable(
    "engine_model", "Engines' model",
    'label_values({__name__=~"vllm:num_requests_running|sglang:num_running_reqs"}, model_name)',
    "model_name of vLLM's and SGLang's own series",
)
INSTANCE = variable("instance", "Replica", "label_values(plumbline_build_info, instance)", "Replicas of Plumbline")

# Alerts as marks on every graph.
ALERTS = {
    "name": "Plumbline alerts",
    "datasource": DATASOURCE,
    "enable": True,
    "hide": False,
    "iconColor": "red",
    "expr": 'ALERTS{alertname=~"Plumbline.*", alertstate="firing"}',
    "titleFormat": "{{alertname}}",
    "textFormat": "{{run}} {{engine}} {{instance}}",
    "step": "30s",
}
SWAPS = {
    "name": "Weight swaps",
    "datasource": DATASOURCE,
    "enable": True,
    "hide": False,
    "iconColor": "blue",
    "expr": "changes(plumbline_weight_swaps_total[1m]) > 0",
    "titleFormat": "weights swapped",
    "textFormat": "{{instance}}",
    "step": "30s",
}


def place(panels):
    """Gives every panel its id and its place: from left to right, a new line where it does not fit, rows on lines of their own."""
    x = y = height = 0
    for number_, item in enumerate(panels, start=1):
        size = item["gridPos"]
        if item["type"] == "row" or x + size["w"] > WIDTH:
            x, y, height = 0, y + height, 0
        item["gridPos"] = {"x": x, "y": y, "w": size["w"], "h": size["h"]}
        item["id"] = number_
        x, height = x + size["w"], max(height, size["h"])
    return panels


def dashboard(uid, title, description, variables, panels):
    return {
        "uid": uid,
        "id": None,
        "title": title,
        "description": description,
        "tags": ["plumbline"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "title": "Plumbline", "type": "dashboards", "tags": ["plumbline"], "asDropdown": True, "includeVars": True,
                "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": "",
            }
        ],
        "annotations": {"list": [ALERTS, SWAPS]},
        "templating": {"list": variables},
        "panels": place(panels),
    }
