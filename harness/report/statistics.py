"""Statistics for small samples, a few seeds a row: mean, standard deviation, Student's t intervals, and their text.

What is compared with them is in `conclusions`.
"""

import math
import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Quantiles of Student's t, its noncentrality, quantiles of Beta: scipy.stats has them too but takes a second to import.
from scipy.special import betaincinv, nctdtrinc, stdtrit

LEVEL = 0.95  # of every interval in the report
POWER = 0.8  # with which a difference is shown that is called `detectable`
NOTHING = "–"  # in a table's cell


def number(value: float | None, decimals: int, sign: str = "-") -> str:
    """A number as the report writes it; with `sign` "+" also a positive one has its sign, but zero is never −0."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:{sign}z{'.4g' if abs(value) >= 1e6 else f'.{decimals}f'}}".replace("-", "−")


def span(interval: tuple[float, float] | None, decimals: int, sign: str = "-") -> str:
    """`low … high`."""
    return " … ".join(number(end, decimals, sign) for end in interval) if interval else NOTHING


@dataclass(frozen=True)
class Sample:
    """A metric's values, one a seed; `sd` is the sample standard deviation (n - 1), None for a single value.

    `seeds` stands in the order of the values: runs of one seed begin with the same random numbers. `metric` is one of
    harness.metrics.METRICS, or "drop". As text a sample is `mean ± sd`, or its single value.
    """

    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()
    metric: str = ""

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.values) if self.n > 1 else None

    @property
    def decimals(self) -> int:
        """Three or four digits that count."""
        return 3 if self.mean >= 1 else 4

    def __str__(self) -> str:
        mean = number(self.mean, self.decimals)
        if self.sd is None:
            return mean
        rounds_to_zero = 0 < self.sd < 0.5 * 10**-self.decimals  # then it gets one decimal more
        return f"{mean} ± {number(self.sd, self.decimals + rounds_to_zero)}"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % confidence interval, None where a single seed allows none. As text it has its sign.

    `paired`: the interval is of one value a seed, as all samples have the same seeds. `detectable` is the true value
    above 0 with which so many seeds of such a spread give an interval above 0 four times in five.
    """

    value: float
    interval: tuple[float, float] | None
    paired: bool = False
    decimals: int = 4  # of the metrics that it was computed from
    detectable: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies wholly above or below zero, else 0 (also without an interval)."""
        if self.interval is None:
            return 0
        low, high = self.interval
        return 1 if low > 0 else -1 if high < 0 else 0

    def __str__(self) -> str:
        return number(self.value, self.decimals, "+")

    @property
    def ends(self) -> str:
        return span(self.interval, self.decimals, "+") if self.interval else "no interval with a single seed"


def prediction_interval(sample: Sample | None) -> tuple[float, float] | None:
    """Where one more run lies with 95 % probability, if runs are normally distributed: mean ± t(n - 1)·s·√(1 + 1/n).

    None with fewer than two values. Without any spread both ends are the mean. Cut off where no such metric can lie:
    below 0, or an accuracy above 1.
    """
    if sample is None or sample.sd is None:
        return None
    low, high = _around(sample.mean, sample.sd * math.sqrt(1 + 1 / sample.n), sample.n - 1)
    return max(low, 0.0) if sample.metric else low, min(high, 1.0) if sample.metric.endswith("accuracy") else high


def plainly_not_normal(sample: Sample) -> bool:
    """Shapiro and Wilk's test at 1 %; fewer than eight values cannot show it."""
    from scipy.stats import shapiro  # takes a second to import

    return sample.n >= 8 and len({*sample.values}) > 1 and shapiro(sample.values).pvalue < 0.01


def sign_test(higher: int, count: int) -> float:
    """The probability, two-sided, of so uneven a split of `count` if either side is as likely."""
    from scipy.stats import binomtest  # takes a second to import

    return float(binomtest(higher, count).pvalue)


def weighted_sum(samples: Sequence[Sample], weights: Sequence[float]) -> Estimate:
    """Σ weight · mean of the samples, with the seeds as the only source of chance.

    Weights (1, -1) give the difference of two means, weights 1/k the mean over k settings. Samples of the same seeds
    are not independent (the networks begin alike and see the images in the same order): the interval is then Student's
    of the sums Σ weight · value of each seed. Else it is Welch's for independent samples, with the degrees of freedom
    after Satterthwaite (1946). A sample of one value, whose variance is unknown, leaves no interval.
    """
    value = math.fsum(weight * sample.mean for sample, weight in zip(samples, weights, strict=True))
    decimals = samples[0].decimals
    if any(sample.sd is None for sample in samples):
        return Estimate(value, None, decimals=decimals)
    seeds = {sample.seeds for sample in samples}
    if len(seeds) == 1 and seeds != {()}:
        by_seed = zip(*(sample.values for sample in samples), strict=True)
        sums = Sample(tuple(math.fsum(map(operator.mul, weights, values)) for values in by_seed))
        return _student(value, sums.sd / math.sqrt(sums.n), sums.n - 1, decimals, paired=True)
    parts = [(weight * sample.sd) ** 2 / sample.n for sample, weight in zip(samples, weights, strict=True)]
    variance = math.fsum(parts)
    if variance == 0:
        return Estimate(value, (value, value), decimals=decimals, detectable=0.0)
    # The parts are squared as shares of their sum: by themselves they may be too small for that.
    degrees = 1 / math.fsum(
        (part / variance) ** 2 / (sample.n - 1) for part, sample in zip(parts, samples, strict=True)
    )
    return _student(value, math.sqrt(variance), degrees, decimals)


def share_interval(count: int, of: int) -> tuple[float, float]:
    """Of the share that is counted, exact (Clopper & Pearson 1934)."""
    from scipy.stats import binomtest  # takes a second to import

    return tuple(binomtest(count, of).proportion_ci(LEVEL, "exact"))


def difference_of_shares(first: tuple[int, int], second: tuple[int, int]) -> Estimate:
    """The first (count, of) less the second, with Newcombe's interval (1998) from the Wilson intervals of both.

    Detectable is what exceeds the second share, taken as it was counted.
    """
    from scipy.stats import binomtest  # takes a second to import

    def wilson(count: int, of: int) -> tuple[float, float, float]:
        return count / of, *binomtest(count, of).proportion_ci(LEVEL, "wilson")

    def interval(count: int) -> tuple[float, float]:
        share, low, high = wilson(count, of)
        value = share - other
        return value - math.hypot(share - low, other_high - other), value + math.hypot(high - share, other - other_low)

    (count, of), (other, other_low, other_high) = first, wilson(*second)
    value = count / of - other
    told = next((count for count in range(of + 1) if interval(count)[0] > 0), None)
    # The share with which as many runs or more are counted with this probability.
    detectable = float(betaincinv(told, of - told + 1, POWER)) - other if told else None
    return Estimate(value, interval(count), decimals=2, detectable=detectable)


def _student(value: float, error: float, degrees: float, decimals: int, *, paired: bool = False) -> Estimate:
    ends = _around(value, error, degrees)
    # Student's t then has this noncentrality, in standard errors.
    detectable = float(nctdtrinc(degrees, 1 - POWER, stdtrit(degrees, (1 + LEVEL) / 2))) * error
    return Estimate(value, ends, paired, decimals, detectable)


def interval_width(n: int, *, of_mean: bool = False) -> float:
    """How many standard deviations the interval for one more run is wide with n seeds, or that of the mean."""
    return 2 * float(stdtrit(n - 1, (1 + LEVEL) / 2)) * math.sqrt((not of_mean) + 1 / n)


def _around(middle: float, error: float, degrees: float) -> tuple[float, float]:
    reach = float(stdtrit(degrees, (1 + LEVEL) / 2)) * error
    return middle - reach, middle + reach
