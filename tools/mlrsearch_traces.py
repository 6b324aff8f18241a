#!/usr/bin/env python3
"""Makes tests/fixtures/mlrsearch.json: searches by the reference implementation of RFC 9971, trial by trial.

    python3 -m venv /tmp/mlrsearch && /tmp/mlrsearch/bin/pip install MLRsearch==1.2.1
    /tmp/mlrsearch/bin/python tools/mlrsearch_traces.py > tests/fixtures/mlrsearch.json

Each case holds the goal, the model server, all trials in order (load, seconds, loss ratio) and the bounds that the
reference drew from them. The model server drops what exceeds its capacity; a trial in which it hiccups loses three
tenths whatever the load. src/capacity/reference_tests.rs reads the file.
"""

import json
import random

from MLRsearch import (
    AbstractMeasurer,
    Config,
    MeasurementResult,
    MultipleLossRatioSearch,
    SearchGoal,
)

MIN, MAX = 20.0, 600.0


class Server(AbstractMeasurer):
    def __init__(self, capacity, hiccups, seed):
        self.capacity, self.hiccups = capacity, hiccups
        self.random = random.Random(seed)
        self.trials = []

    def measure(self, intended_duration, intended_load):
        loss = max(0.0, 1.0 - self.capacity / intended_load)
        if self.random.random() < self.hiccups:
            loss = max(loss, 0.3)
        # Counted in whole parts of a million; we keep what the reference sees.
        lost = round(loss * 1e6)
        self.trials.append([intended_load, intended_duration, lost / 1e6])
        return MeasurementResult(
            intended_duration=intended_duration,
            intended_load=intended_load,
            offered_count=10**6,
            loss_count=lost,
        )


def case(seed):
    rng = random.Random(seed)
    exceed = [0.0, 0.25, 0.4, 0.5][seed % 4]
    final = [10.0, 20.0, 30.0][seed % 3]
    goal = {
        "loss_ratio": [0.0, 0.01, 0.05][seed // 4 % 3],
        "exceed_ratio": exceed,
        "initial_trial": final / [1, 2, 5][seed // 2 % 3],
        "final_trial": final,
        "duration_sum": final * (1 if exceed == 0.0 else 3),
        "width": 0.05,
    }
    capacity = round(MIN * (MAX / MIN) ** rng.uniform(-0.02, 1.02), 1)
    hiccups = 0.0 if seed % 5 < 3 else 0.1
    server = Server(capacity, hiccups, seed)
    search = MultipleLossRatioSearch(
        config=Config(
            goals=[
                SearchGoal(
                    loss_ratio=goal["loss_ratio"],
                    exceed_ratio=exceed,
                    relative_width=goal["width"],
                    initial_trial_duration=goal["initial_trial"],
                    final_trial_duration=final,
                    duration_sum=goal["duration_sum"],
                    preceding_targets=2,
                    fail_fast=False,
                )
            ],
            min_load=MIN,
            max_load=MAX,
            search_duration_max=60.0,
            warmup_duration=0.0,
        )
    )
    (result,) = search.search(server, debug=lambda _: None).values()
    bound = lambda b: None if b is None else float(b)
    return {
        "goal": goal,
        "capacity": capacity,
        "hiccups": hiccups,
        "trials": server.trials,
        "lower": bound(result.relevant_lower_bound),
        "upper": bound(result.relevant_upper_bound),
    }


print("[")
print(",\n".join(json.dumps(case(seed)) for seed in range(120)))
print("]")
