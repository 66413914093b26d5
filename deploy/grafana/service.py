"""The dashboard on the service itself."""

from blocks import DATASOURCE_VARIABLE, GREEN, INSTANCE, RED, YELLOW, dashboard, lines, number, row, steps, table

OWN = 'instance=~"$instance"'
RATE = "[$__rate_interval]"
BAD_FROM_ONE = steps((None, GREEN), (1, RED))


def rate(name, by="instance", more=""):
    return f"sum by ({by}) (rate(plumbline_{name}{{{OWN}{more}}}{RATE}))"


def quantile(q, name, by="instance", more=""):
    return f"histogram_quantile({q}, sum by (le, {by}) (rate(plumbline_{name}_bucket{{{OWN}{more}}}{RATE})))"


def mean(name):
    return f"{rate(name + '_sum')} / {rate(name + '_count')}"


def gauge(name, more=""):
    return f"plumbline_{name}{{{OWN}{more}}}"


def recent(name, more=""):
    return f"{name}:increase5m{{{OWN}{more}}}"


def build():
    scored = ', route="/v1/verifications"'
    info = [("value", "short", 0, None, f"sum by (instance, model_name, weight_version, dtype, head_dtype, device) (plumbline_reference_info{{{OWN}}})")]
    panels = [
        row("At a glance"),
        number("Replicas up", "Replicas that Prometheus can scrape.", "short", f'sum(up{{job=~"plumbline.*", {OWN}}})', "up", thresholds=steps((None, RED), (1, GREEN)), decimals=0),
        number("Fullest queue", "Waiting tokens as a fraction of max_queue_tokens, of the fullest replica.", "percentunit",
               f"max(instance:plumbline_queue_fill_ratio:current{{{OWN}}})", "fullest", thresholds=steps((None, GREEN), (0.5, YELLOW), (0.8, RED)), decimals=1),
        number("Requests in flight", "Requests to the routes under /v1 that are being answered.", "short", f"sum({gauge('requests_in_flight')})", "in flight", decimals=0),
        number("Answers with status 500", "In the last 5 minutes.", "short", f'sum({recent("instance_route_status:plumbline_requests", ", status=" + chr(34) + "500" + chr(34))}) or vector(0)', "500", thresholds=BAD_FROM_ONE, decimals=0),
        number("Store in trouble", "Replicas whose store is full, read-only, corrupt or not available.", "short",
               f'sum(plumbline_store_state{{{OWN}, state=~"full|read_only|corrupt|unavailable"}})', "in trouble", thresholds=BAD_FROM_ONE, decimals=0),
        number("Versions of the weights", "Different current versions among the replicas; more than one for long means that some miss updates.", "short",
               f"count(count by (weight_version) (plumbline_reference_info{{{OWN}}}))", "versions", thresholds=steps((None, GREEN), (2, YELLOW)), decimals=0),
        table("References", "What each replica scores with.", info, ["instance", "model_name", "weight_version", "dtype", "head_dtype", "device"], width=12, height=6),
        table("Builds", "Version and revision of each replica's binary.", [("value", "short", 0, None, f"sum by (instance, version, revision) (plumbline_build_info{{{OWN}}})")],
              ["instance", "version", "revision"], width=12, height=6),
        row("Requests"),
        lines("Requests per second", "By route and status, all chosen replicas.", "reqps", [(rate("request_seconds_count", "route, status"), "{{route}} {{status}}")], min=0),
        lines("Time of a verification", "From a request's headers to its answer.", "s",
              [(quantile(q, "request_seconds", "instance", scored), f"{{{{instance}}}} p{int(q * 100)}") for q in (0.5, 0.95, 0.99)], min=0),
        lines("Refused", "Requests of the last 5 minutes whose work was not admitted, by reason: queue_full and too_slow are 429.", "short",
              [(f"sum by (class, reason) ({recent('instance_class_reason:plumbline_admission_refused')})", "{{class}} {{reason}}")], min=0),
        lines("Bodies and connections", "Bytes of bodies and answers that are held; open connections.", "short",
              [(gauge("body_bytes"), "{{instance}} bytes"), (gauge("connections"), "{{instance}} connections")], min=0),
        row("Queue and model"),
        lines("Waiting tokens", "By class of urgency, and the limit beyond which requests get 429.", "short",
              [(f"sum by (class) ({gauge('class_queue_tokens')})", "{{class}}"), (f"sum({gauge('queue_limit_tokens')})", "limit")], min=0),
        lines("Wait in the queue", "From admission to the start of the batch.", "s",
              [(quantile(q, "queue_wait_seconds"), f"{{{{instance}}}} p{int(q * 100)}") for q in (0.5, 0.95, 0.99)], min=0),
        lines("Tokens per second", "Compared completion tokens, and rows of forwards, prompts included.", "short",
              [(rate("tokens_scored_total"), "{{instance}} compared"), (rate("batch_tokens_sum"), "{{instance}} forward rows")], min=0),
        lines("Batches", "Mean tokens and sequences of one forward.", "short", [(mean("batch_tokens"), "{{instance}} tokens"), (mean("batch_sequences"), "{{instance}} sequences")], min=0),
        lines("Time of the model", "Part of the time that is spent in the decoder, in the lm_head, and beside scoring (noise floor, diagnosis).", "percentunit",
              [(rate("forward_seconds_sum"), "{{instance}} decoder"), (rate("head_seconds_sum"), "{{instance}} head"), (rate("aside_seconds_sum"), "{{instance}} beside")], min=0),
        lines("Prompts shared", "Rows per second that were not computed because sequences share a beginning.", "short", [(rate("prefix_tokens_saved_total"), "{{instance}}")], min=0),
        lines("Failures of the model", "Since the start: failed batches, panics, restarts, out of memory.", "short",
              [(gauge("batches_failed_total"), "{{instance}} failed batches"), (gauge("model_panics_total"), "{{instance}} panics"),
               (gauge("model_restarts_total"), "{{instance}} restarts"), (gauge("oom_backoffs_total"), "{{instance}} out of memory")], min=0),
        lines("Dropped", "Admitted tokens per second that are never scored, by reason.", "short", [(rate("tokens_dropped_total", "reason"), "{{reason}}")], min=0),
        row("Weights, noise floor, diagnosis"),
        lines("Resident versions", "Versions of the weights that rollouts can be scored with, and tokens that wait for one.", "short",
              [(gauge("reference_versions"), "{{instance}} versions"), (gauge("version_wait_tokens"), "{{instance}} waiting tokens")], min=0),
        lines("Weight updates", "Swaps and failed updates since the start.", "short",
              [(gauge("weight_swaps_total"), "{{instance}} swaps"), (gauge("weight_update_failures_total"), "{{instance}} failures")], min=0),
        lines("State of the noise floor", "1 for the state: sampled or traffic = measured.", "short", [(gauge("noise_floor_state") + " == 1", "{{instance}} {{state}}")], min=0, max=1),
        lines("Diagnosis", "Suspicious requests that wait, tokens per second re-scored for them.", "short",
              [(gauge("diagnoses_waiting"), "{{instance}} waiting"), (rate("diagnosis_tokens_total"), "{{instance}} tokens/s")], min=0),
        row("Store and jobs"),
        lines("Size of the store", "Bytes of the file, of its write-ahead log, and of the content.", "bytes", [(gauge("store_bytes"), "{{instance}} {{part}}")], min=0),
        lines("Rows", "Sequences in the store, and those whose tokens are kept.", "short", [(gauge("store_rows"), "{{instance}} {{table}}")], min=0),
        lines("Writes and commits", "Per second; writes that wait together share a commit.", "wps",
              [(rate("store_writes_total"), "{{instance}} writes"), (rate("store_commits_total"), "{{instance}} commits")], min=0),
        lines("Store errors", "Failed reads and writes of the last 5 minutes, and answers sent without being stored.", "short",
              [(recent("instance_kind:plumbline_store_errors"), "{{instance}} {{kind}}"), (recent("instance:plumbline_answers_unstored"), "{{instance}} unstored")], min=0),
        lines("Accepted verifications", "Jobs that wait or run.", "short", [(gauge("jobs"), "{{instance}} {{state}}")], min=0),
        lines("Repeated", "Per second: requests answered from what is kept, sequences not counted again.", "short", [(rate("repeated_total", "what"), "{{what}}")], min=0),
        row("Process"),
        lines("CPU", "Cores in use.", "short", [(f'sum by (instance) (rate(process_cpu_seconds_total{{{OWN}, job=~"plumbline.*"}}{RATE}))', "{{instance}}")], min=0),
        lines("Memory", "Resident memory of the process, and the weights' part of it (on a GPU: of the device's).", "bytes",
              [(f'process_resident_memory_bytes{{{OWN}, job=~"plumbline.*"}}', "{{instance}} resident"), (gauge("reference_weight_bytes"), "{{instance}} weights")], min=0),
    ]
    return dashboard("plumbline-service", "Plumbline / Service", "How the service itself is doing.", [DATASOURCE_VARIABLE, INSTANCE], panels)
