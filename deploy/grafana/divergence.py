"""The dashboard on one run's divergence in full."""

from blocks import GREEN, RED, VARIABLES, YELLOW, dashboard, heatmap, lines, row, steps

OWN = 'run=~"$run", engine=~"$engine", model_name=~"$model_name"'
LEGEND = "{{run}} {{engine}}"
SIGN = "d = reference logprob - engine logprob, in nats. "
FLEET = "All replicas together, exact over the last 5 minutes."

FLOOR_STEPS = steps((None, GREEN), (2.5, YELLOW), (5, RED))
ESS_STEPS = steps((None, RED), (0.95, YELLOW), (0.99, GREEN))


def fleet(name, more=""):
    return f"run_engine_model:plumbline_{name}:window5m{{{OWN}{more}}}"


def build():
    panels = [
        row("How far apart"),
        lines("Multiple of the noise floor", "Mean |d| over what a faithful bf16 engine would show on the very same tokens. Above 2.5 suspect, above 5 divergent. " + FLEET,
              "short", [(fleet("noise_floor_multiple"), LEGEND)], thresholds=FLOOR_STEPS, min=0),
        lines("Mean |d| and the noise floor", SIGN + "The floor is what a faithful bf16 engine would show. " + FLEET,
              "short", [(fleet("logprob_mae_nats"), LEGEND + " mean |d|"), (fleet("noise_floor_nats"), LEGEND + " floor")], min=0),
        lines("RMSE and largest |d|", SIGN + "RMSE over 5 minutes; the largest is over each replica's own sliding window.",
              "short", [(fleet("logprob_rmse_nats"), LEGEND + " RMSE"), (f"run_engine_model:plumbline_logprob_max_abs_nats:max{{{OWN}}}", LEGEND + " largest")], log=True),
        lines("Quantiles of |d|", SIGN + "From the histogram's buckets (1, 3, 10 steps). " + FLEET,
              "short", [(f"run_engine_model:plumbline_abs_log_ratio_nats:{p}_window5m{{{OWN}}}", f"{LEGEND} {p}") for p in ("p50", "p90", "p99", "p999")], log=True),
        heatmap("Distribution of |d|", SIGN + "Tokens by size of the difference. " + FLEET, "short",
                f"sum by (le) (run_engine_model_le:plumbline_abs_log_ratio_nats_bucket:increase5m{{{OWN}}})"),
        lines("Drift score", "Evidence that the level changed, by each replica's sequential test: 1 and above is an alarm, false at most once in a million sequences.",
              "short", [(f"run_engine_model:plumbline_drift_score:max{{{OWN}}}", LEGEND)], thresholds=steps((None, GREEN), (1, RED)), min=0),
        row("Log-probabilities"),
        lines("KL(engine || reference)", "Per token in nats by estimator: k1 = mean(-d), k2 = mean(d^2)/2, k3 = mean(exp d - 1 - d), reverse_k3 is k3 of -d. prime-rl's gate for k3 is 0.015, trainings collapse from 0.01 on. " + FLEET,
              "short", [(f"run_engine_model:plumbline_kl_nats:window5m{{{OWN}}}", LEGEND + " {{estimator}}")], thresholds=steps((None, GREEN), (0.005, YELLOW), (0.01, RED))),
        lines("Mean d, signed", SIGN + "Negative: the engine is surer of its tokens than the reference. " + FLEET, "short", [(fleet("log_ratio_mean_nats"), LEGEND)]),
        lines("Pearson correlation", "Of log-probabilities and of probabilities. Healthy bf16 engines are above 0.999. " + FLEET,
              "short", [(fleet("logprob_pearson"), LEGEND + " logprobs"), (fleet("prob_pearson"), LEGEND + " probabilities")], decimals=5, max=1),
        lines("5 minutes against 1 hour", "Multiple of the noise floor in a short and in a long window, all replicas together.",
              "short", [(fleet("noise_floor_multiple"), LEGEND + " 5m"), (f"run_engine_model:plumbline_noise_floor_multiple:window1h{{{OWN}}}", LEGEND + " 1h")], min=0),
        row("Probabilities"),
        lines("Mean |p_reference - p_engine|", "verl: below 0.005 is normal, above 0.01 is a precision issue. " + FLEET,
              "short", [(fleet("prob_mae"), LEGEND + " mean"), (fleet("prob_rmse"), LEGEND + " RMSE")], thresholds=steps((None, GREEN), (0.005, YELLOW), (0.01, RED)), min=0),
        lines("Mean p_reference - p_engine, signed", "verl's rollout_probs_diff_mean with its sign. " + FLEET, "short", [(fleet("prob_diff_mean"), LEGEND)]),
        lines("Bernoulli KL and JS", "KL of 'this token or another', and NeMo-RL's Jensen-Shannon form. " + FLEET,
              "short", [(fleet("bernoulli_kl_nats"), LEGEND + " Bernoulli KL"), (fleet("js_nats"), LEGEND + " JS")]),
        lines("Multiplicative error", "Mean exp|d| (NeMo-RL's token_mult_prob_error): 1 is equal, above 1.05 is to be looked into. " + FLEET,
              "short", [(fleet("mult_prob_error"), LEGEND)], thresholds=steps((None, GREEN), (1.05, YELLOW), (1.5, RED))),
        row("Importance sampling: what training sees"),
        lines("Effective sample size", "Fraction of the tokens that importance sampling leaves; truncated: ratios capped at 2. " + FLEET,
              "percentunit", [(fleet("ess_ratio"), LEGEND), (fleet("ess_truncated_ratio"), LEGEND + " truncated")], thresholds=ESS_STEPS, max=1, decimals=3),
        lines("Importance ratio", "Mean exp(d): 1 is unbiased; NeMo-RL looks into 1 to 2 %. " + FLEET, "short", [(fleet("importance_ratio_mean"), LEGEND)], decimals=4),
        lines("Tokens outside of a band", "Fraction of tokens whose importance ratio lies outside: what IcePop and TIS mask or cap. " + FLEET,
              "percentunit", [(f"run_engine_model:plumbline_ratio_outside_ratio:window5m{{{OWN}}}", LEGEND + " {{band}}")], min=0),
        lines("chi2", "Mean rho^2 - 1 by token and by sequence. verl warns at chi2_token above 1. " + FLEET,
              "short", [(fleet("chi2_token"), LEGEND + " token"), (fleet("chi2_sequence"), LEGEND + " sequence")]),
        row("The text itself"),
        lines("Perplexity", "Mean over sequences, as the engine and as the reference see it. " + FLEET,
              "short", [(fleet("ppl_engine"), LEGEND + " engine"), (fleet("ppl_reference"), LEGEND + " reference")]),
        lines("Difference of log-perplexity", "Mean over sequences of mean e - mean r (verl's log_ppl_diff). " + FLEET, "short", [(fleet("log_ppl_diff"), LEGEND)]),
        lines("Entropy, and KL over it", "Entropy of the reference's next-token distribution in nats; k3 / entropy is prime-rl's kl_ent_ratio. " + FLEET,
              "short", [(fleet("entropy_nats"), LEGEND + " entropy"), (fleet("kl_entropy_ratio"), LEGEND + " KL / entropy")]),
        lines("First choices and endings", "Tokens that are the reference's first choice; the reference's probability of the end of sequence where the engine ended. " + FLEET,
              "percentunit", [(fleet("top1_agreement_ratio"), LEGEND + " first choice"), (fleet("eos_probability"), LEGEND + " end")], min=0, max=1),
        row("What was looked at"),
        lines("Tokens compared", "In the last 5 minutes, all replicas. Alerts on divergence need 1000.", "short",
              [(f"run_engine_model:plumbline_tokens_scored:increase5m{{{OWN}}}", LEGEND)], thresholds=steps((None, YELLOW), (1000, GREEN)), min=0),
        lines("Tokens skipped", "In the last 5 minutes by reason: these enter no sum.", "short",
              [(f"run_engine_model_reason:plumbline_tokens_skipped:increase5m{{{OWN}}}", LEGEND + " {{reason}}")], stack=True, min=0),
        lines("Noise floor known for", "Fraction of the compared tokens of which the noise floor says what to expect. Below a half the absolute levels decide.", "percentunit",
              [(fleet("noise_floor_coverage_ratio"), LEGEND)], min=0, max=1),
        lines("Clamped exponents", "Exponents limited to +-20 in the last 5 minutes: more than none means that some tokens are absurdly far off.", "short",
              [(f"run_engine_model:plumbline_clamped_exponents:increase5m{{{OWN}}}", LEGEND)], min=0),
    ]
    return dashboard("plumbline-divergence", "Plumbline / Divergence", "Engine against reference, by every measure in use. " + SIGN.strip(), list(VARIABLES), panels)
