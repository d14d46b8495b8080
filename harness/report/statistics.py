"""The statistics of the report: mean and standard deviation, Student's t, prediction and confidence intervals.

Written out because the project has no SciPy. Everything is for small samples: a handful of seeds a row.
"""

import functools
import math
import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95  # of every interval in the report


@dataclass(frozen=True)
class Sample:
    """A figure's values, one a seed; `sd` is the sample standard deviation (divided by n - 1), None for one value.

    `seeds` may be told, in the order of the values: runs with one seed begin with the same random numbers.
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
    """A number with its 95 % confidence interval; `interval` is None where a single seed allows none.

    `paired` says that the interval is of one value a seed, as all samples have the same seeds.
    """

    value: float
    interval: tuple[float, float] | None
    paired: bool = False

    @property
    def sign(self) -> int:
        """-1 or 1 if the interval lies wholly below or above zero, else 0 (also without an interval)."""
        if self.interval is None:
            return 0
        low, high = self.interval
        return 1 if low > 0 else -1 if high < 0 else 0


def prediction_interval(sample: Sample, level: float = LEVEL) -> tuple[float, float] | None:
    """Where one more run lies with this probability, if runs are normal: mean ± t(n - 1)·s·√(1 + 1/n).

    None for fewer than two values. Without any spread both ends are the mean.
    """
    if sample.sd is None:
        return None
    if sample.sd == 0:
        return sample.mean, sample.mean
    reach = t_quantile((1 + level) / 2, sample.n - 1) * sample.sd * math.sqrt(1 + 1 / sample.n)
    return sample.mean - reach, sample.mean + reach


def weighted_sum(samples: Sequence[Sample], weights: Sequence[float], level: float = LEVEL) -> Estimate:
    """Σ weight · mean of the samples, with the seeds as the only source of chance.

    Weights (1, -1) give the difference of two means, weights 1/k the mean over k settings. Samples of the same seeds
    are not independent (the networks begin alike and see the images in the same order): the interval is then Student's
    of the sums Σ weight · value of each seed. Else, also where they have only some seeds in common, it is Welch's for
    independent ones (degrees of freedom after Satterthwaite, 1946). A sample of one value, whose variance is unknown,
    leaves no interval.
    """
    value = math.fsum(weight * sample.mean for sample, weight in zip(samples, weights, strict=True))
    if any(sample.sd is None for sample in samples):
        return Estimate(value, None)
    seeds = {sample.seeds for sample in samples}
    if len(seeds) == 1 and seeds != {()}:
        by_seed = zip(*(sample.values for sample in samples), strict=True)
        sums = Sample(tuple(math.fsum(map(operator.mul, weights, values)) for values in by_seed))
        reach = t_quantile((1 + level) / 2, sums.n - 1) * sums.sd / math.sqrt(sums.n)
        return Estimate(value, (value - reach, value + reach), paired=True)
    parts = [(weight * sample.sd) ** 2 / sample.n for sample, weight in zip(samples, weights, strict=True)]
    variance = math.fsum(parts)
    if variance == 0:
        return Estimate(value, (value, value))
    shares = [part / variance for part in parts]  # squared below: the parts themselves may be too small for that
    degrees = 1 / math.fsum(share**2 / (sample.n - 1) for share, sample in zip(shares, samples, strict=True))
    reach = t_quantile((1 + level) / 2, degrees) * math.sqrt(variance)
    return Estimate(value, (value - reach, value + reach))


@functools.cache
def t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t distribution; `probability` in (0, 1), `degrees` of freedom above 0, any real number.

    Bisection on the upper tail until two neighbouring floats are left: slow (some 60 evaluations) and sure. Below about
    0.6 the relative error grows, as the tail is then close to 1/2.
    """
    if not 0 < probability < 1 or not 0 < degrees < math.inf:
        raise ValueError(f"no t quantile for probability {probability} and {degrees} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    if probability == 0.5:
        return 0.0
    tail, low, high = 1 - probability, 0.0, 1.0
    while t_upper_tail(high, degrees) > tail:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if t_upper_tail(middle, degrees) > tail:
            low = middle
        else:
            high = middle
    return high


def t_upper_tail(t: float, degrees: float) -> float:
    """The probability that Student's t exceeds `t` ≥ 0: I_x(degrees/2, 1/2) / 2 at x = degrees / (degrees + t²)."""
    total = degrees + t * t
    return _incomplete_beta(degrees / 2, 0.5, degrees / total, t * t / total) / 2


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b); `rest` is 1 - x, given apart to keep its digits.

    By its continued fraction (Press et al., Numerical Recipes, section 6.4), on the side where that converges fast.
    """
    if x == 0 or rest == 0:
        return float(rest == 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, rest, x)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    return math.exp(logarithm) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    tiny = 1e-300  # stands in for a denominator of zero
    numerator = 1.0
    denominator = 1 / (1 - (a + b) * x / (a + 1) or tiny)
    fraction = denominator
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            denominator = 1 / (1 + term * denominator or tiny)
            numerator = 1 + term / numerator or tiny
            factor = numerator * denominator
            fraction *= factor
        if abs(factor - 1) < 1e-15:
            break
    return fraction
