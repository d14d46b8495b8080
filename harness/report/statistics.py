"""Statistics for small samples, a handful of seeds a row: mean, standard deviation, and Student's t intervals.

What is compared with them is in `results` (against the original) and `conclusions` (rows with each other).
"""

import math
import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit  # quantiles of Student's t; scipy.stats has them too but takes a second to import

LEVEL = 0.95  # of every interval in the report


@dataclass(frozen=True)
class Sample:
    """A metric's values, one a seed; `sd` is the sample standard deviation (n - 1), None for a single value.

    `seeds` stands in the order of the values: runs of one seed begin with the same random numbers.
    """

    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.values) if self.n > 1 else None


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % confidence interval, None where a single seed allows none.

    `paired`: the interval is of one value a seed, as all samples have the same seeds.
    """

    value: float
    interval: tuple[float, float] | None
    paired: bool = False

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies wholly above or below zero, else 0 (also without an interval)."""
        if self.interval is None:
            return 0
        low, high = self.interval
        return 1 if low > 0 else -1 if high < 0 else 0


def prediction_interval(sample: Sample | None) -> tuple[float, float] | None:
    """Where one more run lies with 95 % probability, if runs are normally distributed: mean ± t(n - 1)·s·√(1 + 1/n).

    None with fewer than two values. Without any spread both ends are the mean.
    """
    if sample is None or sample.sd is None:
        return None
    return _around(sample.mean, sample.sd * math.sqrt(1 + 1 / sample.n), sample.n - 1)


def weighted_sum(samples: Sequence[Sample], weights: Sequence[float]) -> Estimate:
    """Σ weight · mean of the samples, with the seeds as the only source of chance.

    Weights (1, -1) give the difference of two means, weights 1/k the mean over k settings. Samples of the same seeds
    are not independent (the networks begin alike and see the images in the same order): the interval is then Student's
    of the sums Σ weight · value of each seed. Else it is Welch's for independent samples, with the degrees of freedom
    after Satterthwaite (1946). A sample of one value, whose variance is unknown, leaves no interval.
    """
    value = math.fsum(weight * sample.mean for sample, weight in zip(samples, weights, strict=True))
    if any(sample.sd is None for sample in samples):
        return Estimate(value, None)
    seeds = {sample.seeds for sample in samples}
    if len(seeds) == 1 and seeds != {()}:
        by_seed = zip(*(sample.values for sample in samples), strict=True)
        sums = Sample(tuple(math.fsum(map(operator.mul, weights, values)) for values in by_seed))
        return Estimate(value, _around(value, sums.sd / math.sqrt(sums.n), sums.n - 1), paired=True)
    parts = [(weight * sample.sd) ** 2 / sample.n for sample, weight in zip(samples, weights, strict=True)]
    variance = math.fsum(parts)
    if variance == 0:
        return Estimate(value, (value, value))
    # The parts are squared as shares of their sum: by themselves they may be too small for that.
    shares = [part / variance for part in parts]
    degrees = 1 / math.fsum(share**2 / (sample.n - 1) for share, sample in zip(shares, samples, strict=True))
    return Estimate(value, _around(value, math.sqrt(variance), degrees))


def _around(middle: float, error: float, degrees: float) -> tuple[float, float]:
    reach = float(stdtrit(degrees, (1 + LEVEL) / 2)) * error
    return middle - reach, middle + reach
