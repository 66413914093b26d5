"""The first dashboard to look at: is it right, and what are the engines doing meanwhile?"""

from blocks import ENGINE_MODEL, GREEN, RED, VARIABLES, YELLOW, dashboard, lines, number, row, steps, table
from divergence import ESS_STEPS, FLEET, FLOOR_STEPS, LEGEND, OWN, SIGN, fleet

K3_STEPS = steps((None, GREEN), (0.005, YELLOW), (0.01, RED))
ENGINES = 'model_name=~"$engine_model"'


def build():
    run_table = [
        ("tokens", "short", 0, None, f"run_engine_model:plumbline_tokens_scored:increase5m{{{OWN}}}"),
        ("x floor", "short", 2, FLOOR_STEPS, fleet("noise_floor_multiple")),
        ("mean |d|", "short", 5, None, fleet("logprob_mae_nats")),
        ("RMSE", "short", 5, None, fleet("logprob_rmse_nats")),
        ("Pearson", "short", 6, None, fleet("logprob_pearson")),
        ("KL k3", "short", 6, K3_STEPS, f'sum without (estimator) (run_engine_model:plumbline_kl_nats:window5m{{{OWN}, estimator="k3"}})'),
        ("ESS", "percentunit", 2, ESS_STEPS, fleet("ess_ratio")),
        ("mean ratio", "short", 4, None, fleet("importance_ratio_mean")),
        ("drift", "short", 2, steps((None, GREEN), (1, RED)), f"run_engine_model:plumbline_drift_score:max{{{OWN}}}"),
    ]
    panels = [
        row("Is it right?"),
        number("Worst multiple of the noise floor", "Of all chosen runs and engines over the last 5 minutes. Above 2.5 suspect, above 5 divergent.", "short",
               f"max({fleet('noise_floor_multiple')})", "worst", thresholds=FLOOR_STEPS, decimals=2),
        number("Worst KL k3", "Of all chosen runs and engines, in nats per token over the last 5 minutes.", "short",
               f'max(run_engine_model:plumbline_kl_nats:window5m{{{OWN}, estimator="k3"}})', "worst", thresholds=K3_STEPS, decimals=5),
        number("Least effective sample size", "Fraction of the tokens that importance sampling leaves, of all chosen runs and engines.", "percentunit",
               f"min({fleet('ess_ratio')})", "least", thresholds=ESS_STEPS, decimals=2),
        number("Tokens compared", "In the last 5 minutes, all chosen runs and engines.", "short",
               f"sum(run_engine_model:plumbline_tokens_scored:increase5m{{{OWN}}})", "tokens", thresholds=steps((None, YELLOW), (1000, GREEN)), decimals=0),
        number("Firing alerts", "Alerts of Plumbline's rules, all runs.", "short",
               'count(ALERTS{alertname=~"Plumbline.*", alertstate="firing"}) or vector(0)', "firing", thresholds=steps((None, GREEN), (1, RED)), decimals=0),
        number("Replicas up", "Replicas of Plumbline that Prometheus can scrape.", "short", 'sum(up{job=~"plumbline.*"})', "up", thresholds=steps((None, RED), (1, GREEN)), decimals=0),
        lines("Multiple of the noise floor", "Mean |d| over what a faithful bf16 engine would show on the very same tokens. Above 2.5 suspect, above 5 divergent. " + FLEET,
              "short", [(fleet("noise_floor_multiple"), LEGEND)], thresholds=FLOOR_STEPS, min=0),
        lines("Mean |d|", SIGN + FLEET, "short", [(fleet("logprob_mae_nats"), LEGEND), (fleet("noise_floor_nats"), LEGEND + " floor")], min=0),
        table("Runs and engines now", SIGN + FLEET, run_table, ["run", "engine", "model_name"]),
        lines("Verdicts of sequences", "Answered sequences of the last 5 minutes by verdict.", "short",
              [(f"sum by (verdict) (run_engine_model_verdict:plumbline_sequences:increase5m{{{OWN}}})", "{{verdict}}")], stack=True, min=0),
        lines("Causes", "Diagnosed sequences of the last 5 minutes by the cause ranked first; docs/causes.md explains each.", "short",
              [(f"sum by (cause) (run_engine_model_cause:plumbline_diagnosis:increase5m{{{OWN}}})", "{{cause}}")], stack=True, min=0),
        row("The engines meanwhile (vLLM's and SGLang's own series)"),
        lines("Tokens per second", "What the engines generate, and what of it is compared.", "short", [
            (f"sum by (model_name) (rate(vllm:generation_tokens_total{{{ENGINES}}}[$__rate_interval]))", "vLLM {{model_name}}"),
            (f"sum by (model_name) (sglang:gen_throughput{{{ENGINES}}})", "SGLang {{model_name}}"),
            (f"sum by (engine) (run_engine_model:plumbline_tokens_scored:increase5m{{{OWN}}}) / 300", "compared, {{engine}} (5m)"),
        ], min=0),
        lines("Requests running and waiting", "In the engines, and sequences that wait for Plumbline.", "short", [
            (f"sum by (model_name) (vllm:num_requests_running{{{ENGINES}}})", "vLLM {{model_name}} running"),
            (f"sum by (model_name) (vllm:num_requests_waiting{{{ENGINES}}})", "vLLM {{model_name}} waiting"),
            (f"sum by (model_name) (sglang:num_running_reqs{{{ENGINES}}})", "SGLang {{model_name}} running"),
            (f"sum by (model_name) (sglang:num_queue_reqs{{{ENGINES}}})", "SGLang {{model_name}} waiting"),
            ("sum(plumbline_queue_sequences)", "Plumbline waiting"),
        ], min=0),
        lines("KV cache in use", "A cache that keeps entries over a weight update gives stale_prefix_cache.", "percentunit", [
            (f"avg by (model_name) (vllm:kv_cache_usage_perc{{{ENGINES}}})", "vLLM {{model_name}}"),
            (f"avg by (model_name) (sglang:token_usage{{{ENGINES}}})", "SGLang {{model_name}}"),
            (f"avg by (model_name) (sglang:cache_hit_rate{{{ENGINES}}})", "SGLang {{model_name}} hit rate"),
        ], min=0, max=1),
        lines("Time to first token, p95", "In the engines.", "s", [
            (f"histogram_quantile(0.95, sum by (le, model_name) (rate(vllm:time_to_first_token_seconds_bucket{{{ENGINES}}}[$__rate_interval])))", "vLLM {{model_name}}"),
            (f"histogram_quantile(0.95, sum by (le, model_name) (rate(sglang:time_to_first_token_seconds_bucket{{{ENGINES}}}[$__rate_interval])))", "SGLang {{model_name}}"),
        ], min=0),
    ]
    return dashboard("plumbline-overview", "Plumbline / Overview", "Is what the engines sample what the trainer thinks it is?", [*VARIABLES, ENGINE_MODEL], panels)
