#!/usr/bin/env python3
"""Would a fitted guess shorten the capacity search? Prints the trials of searches with and without one, over seeds.

The search is that of src/capacity/search.rs, for servers with a hard limit. The guess is the pole of delay = d0 / (1 - load/C),
fitted by least squares to 1/delay over the last four loads that held, once delay has risen by half; it replaces the doubled
load where it is lower. docs/decisions/0004-capacity-search.md has what came of it."""

import bisect
import math
import random

WIDTH = 0.05
SEEDS = 3000


class Loads:
    def __init__(self, size, low, high):
        self.sums = [size * (i + 1) for i in range(high // size + 2)]
        self.max = max(1, min(bisect.bisect_right(self.sums, high), len(self.sums)))
        self.min = min(max(bisect.bisect_left(self.sums, low) + 1, 1), self.max)

    def participants(self, rooms):
        return self.sums[min(rooms, len(self.sums)) - 1] if rooms else 0

    def at_most(self, participants):
        return bisect.bisect_right(self.sums, participants)

    def narrow(self, lower, upper):
        low, high = self.participants(lower), self.participants(upper)
        return upper <= lower + 1 or high - low <= WIDTH * high

    def between(self, lower, upper):
        middle = round(math.sqrt(max(1, self.participants(lower)) * self.participants(upper)))
        return min(max(self.at_most(middle), lower + 1), upper - 1)

    def doubled(self, rooms):
        wanted = self.participants(rooms) * 2
        if self.participants(self.max) <= wanted + wanted // 4:
            return self.max
        return min(max(self.at_most(wanted), rooms + 1), max(self.max, rooms + 1))


def guess(loads, trials):
    held = {}
    for rooms, _, broke, delay in trials:
        if not broke:
            held.setdefault(loads.participants(rooms), []).append(delay)
    points = sorted((load, len(d) / sum(d)) for load, d in held.items())[-4:]
    if len(points) < 3 or max(y for _, y in points) < 1.5 * min(y for _, y in points):
        return None
    mean_x, mean_y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return mean_x - mean_y / slope if slope < 0 else None


def search(loads, measure, fitted):
    trials = []  # rooms, full length, broke, delay
    while True:
        broke = [t[0] for t in trials if t[2]]
        upper = min(broke, default=None)
        held = max((t[0] for t in trials if upper is None or t[0] < upper), default=None)
        proven = any(t[0] == held and t[1] for t in trials)
        full = False
        if held is None:
            if upper is not None and upper <= loads.min:
                return trials
            rooms = loads.min
        elif upper is None and held < loads.max:
            rooms = loads.doubled(held)
            pole = guess(loads, trials) if fitted else None
            if pole and held < loads.at_most(pole * (1 + WIDTH / 2)) < rooms:
                rooms = loads.at_most(pole * (1 + WIDTH / 2))
        elif upper is None or loads.narrow(held, upper):
            if proven:
                return trials
            rooms, full = held, True
        else:
            rooms = loads.between(held, upper)
            full = loads.narrow(held, rooms) or loads.narrow(rooms, upper)
        trials.append((rooms, full, *measure(rooms)))


SERVERS = {
    "delay tells nothing": lambda rho, quota: 1,
    "one queue (M/M/1)": lambda rho, quota: 1 / (1 - rho),
    "one queue (M/D/1)": lambda rho, quota: 1 + rho / (2 * (1 - rho)),
    "a late knee": lambda rho, quota: 1 + 0.5 * rho + 20 * rho**8,
    "a CPU quota": lambda rho, quota: 0.3 + rho + 50 * max(0, rho - quota) ** 2,
}


def main():
    for name, delay_of in SERVERS.items():
        told = []
        for fitted in (False, True):
            counts = []
            for seed in range(SEEDS):
                rng = random.Random(seed)
                size = rng.randint(1, 6)
                low = rng.randint(size, 40)
                loads = Loads(size, low, low * 30)
                capacity = loads.participants(loads.min) * 30 ** rng.uniform(0.02, 0.98) + 0.5
                pole, noise, quota = rng.uniform(0.8, 1.0), rng.choice([0.02, 0.1, 0.2]), rng.uniform(0.2, 0.8)

                def measure(rooms):
                    load = loads.participants(rooms)
                    rho = min(load / capacity * pole, 0.999)
                    return load > capacity, delay_of(rho, quota) * math.exp(rng.gauss(0, noise))

                counts.append(len(search(loads, measure, fitted)))
            told.append(f"mean {sum(counts) / SEEDS:.2f}, at most {max(counts)}")
        print(f"{name:20} without a guess: {told[0]}; with: {told[1]}")


if __name__ == "__main__":
    main()
