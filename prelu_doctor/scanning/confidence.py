"""What silence on n samples says about a unit's true firing rate."""


def firing_rate_bound(samples: int, confidence: float = 0.95) -> float:
    """The Clopper-Pearson upper bound on the firing rate of a unit that fired on none of n samples.

    With 0 successes the exact bound solves (1 - p)^n = 1 - confidence; it is about 3/n at 95 % (the rule of three).

    Args:
        samples: Number n of independent samples seen.
        confidence: One-sided confidence level in 0..1.

    Returns:
        The bound, a share in 0..1; 1 where nothing was seen.

    Source: Clopper and Pearson, Biometrika 26 (1934), the case x = 0.
    """
    if samples == 0:
        return 1.0
    return float(1.0 - (1.0 - confidence) ** (1.0 / samples))
